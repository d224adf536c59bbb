//! Where time goes, by the name of what takes it.
//!
//! Principal type: [`Profile`]. Must not know who measures.

/// Everything of one name: a kind of op in any layer, such as `attn_q`, or a kernel.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OpTime {
    /// That name.
    pub name: String,
    /// How often it ran.
    pub calls: u32,
    /// Seconds, over all steps.
    pub seconds: f64,
    /// Bytes of weights and of the KV cache that it read, over all steps.
    pub bytes: u64,
}

/// Times of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// In the order of their first run.
    pub ops: Vec<OpTime>,
    /// Steps measured.
    pub steps: usize,
}

impl Profile {
    /// Adds one run of `name`.
    pub fn add(&mut self, name: &str, seconds: f64, bytes: u64) {
        let index = self.ops.iter().position(|op| op.name == name).unwrap_or_else(|| {
            self.ops.push(OpTime { name: name.to_owned(), calls: 0, seconds: 0.0, bytes: 0 });
            self.ops.len() - 1
        });
        let op = &mut self.ops[index];
        op.calls += 1;
        op.seconds += seconds;
        op.bytes += bytes;
    }
}
