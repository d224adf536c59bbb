//! Writes GGUF files for tests, valid ones and, on purpose, invalid ones. Principal type: [`Writer`].

/// A metadata value, written with exactly this type.
#[derive(Clone, Debug)]
pub enum Kv {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    U64(u64),
    I64(i64),
    F64(f64),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
    /// Type number and bytes, for what must not be.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Kv {
    fn from(text: &str) -> Self {
        Kv::Str(text.to_owned())
    }
}

impl Kv {
    /// Array of strings.
    pub fn strs(items: &[&str]) -> Self {
        Kv::Strs(items.iter().map(|item| (*item).to_owned()).collect())
    }

    /// The type number and the bytes after it.
    fn encode(&self) -> (u32, Vec<u8>) {
        fn array<T>(element: u32, items: &[T], write: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
            let mut out = element.to_le_bytes().to_vec();
            out.extend((items.len() as u64).to_le_bytes());
            out.extend(items.iter().flat_map(write));
            out
        }
        match self {
            Kv::U8(x) => (0, vec![*x]),
            Kv::I8(x) => (1, x.to_le_bytes().to_vec()),
            Kv::U16(x) => (2, x.to_le_bytes().to_vec()),
            Kv::I16(x) => (3, x.to_le_bytes().to_vec()),
            Kv::U32(x) => (4, x.to_le_bytes().to_vec()),
            Kv::I32(x) => (5, x.to_le_bytes().to_vec()),
            Kv::F32(x) => (6, x.to_le_bytes().to_vec()),
            Kv::Bool(x) => (7, vec![u8::from(*x)]),
            Kv::Str(x) => (8, string(x.as_bytes())),
            Kv::U64(x) => (10, x.to_le_bytes().to_vec()),
            Kv::I64(x) => (11, x.to_le_bytes().to_vec()),
            Kv::F64(x) => (12, x.to_le_bytes().to_vec()),
            Kv::U32s(x) => (9, array(4, x, |x| x.to_le_bytes().to_vec())),
            Kv::I32s(x) => (9, array(5, x, |x| x.to_le_bytes().to_vec())),
            Kv::F32s(x) => (9, array(6, x, |x| x.to_le_bytes().to_vec())),
            Kv::Bools(x) => (9, array(7, x, |x| vec![u8::from(*x)])),
            Kv::Strs(x) => (9, array(8, x, |x| string(x.as_bytes()))),
            Kv::Raw(number, bytes) => (*number, bytes.clone()),
        }
    }
}

/// Length and bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// A tensor of the file. `offset: None` puts it where it belongs.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub ggml_type: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn new(name: &str, dims: &[u64], ggml_type: u32, data: Vec<u8>) -> Self {
        Self { name: name.into(), dims: dims.to_vec(), ggml_type, offset: None, data }
    }

    /// A tensor of F32 values.
    pub fn f32(name: &str, dims: &[u64], values: &[f32]) -> Self {
        Self::new(name, dims, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// A file in the making; every field may be set to what it must not be.
#[derive(Clone, Debug)]
pub struct Writer {
    pub magic: [u8; 4],
    pub version: u32,
    /// Counts, when they are to differ from what is there.
    pub n_tensors: Option<u64>,
    pub n_kv: Option<u64>,
    pub kv: Vec<(Vec<u8>, Kv)>,
    pub tensors: Vec<Tensor>,
    pub alignment: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_kv: None,
            kv: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }
}

impl Writer {
    /// Adds a key, or gives it another value when it is there.
    pub fn set(&mut self, key: &str, value: impl Into<Kv>) -> &mut Self {
        let value = value.into();
        match self.kv.iter_mut().find(|(other, _)| other == key.as_bytes()) {
            Some(entry) => entry.1 = value,
            None => self.kv.push((key.into(), value)),
        }
        self
    }

    /// Adds a key, there already or not.
    pub fn add(&mut self, key: &[u8], value: impl Into<Kv>) -> &mut Self {
        self.kv.push((key.to_vec(), value.into()));
        self
    }

    /// Takes a key out.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.kv.retain(|(other, _)| other != key.as_bytes());
        self
    }

    /// Everything before the data section, without the padding at its end.
    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_kv.unwrap_or(self.kv.len() as u64).to_le_bytes());
        for (key, value) in &self.kv {
            let (number, bytes) = value.encode();
            out.extend(string(key));
            out.extend(number.to_le_bytes());
            out.extend(bytes);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.ggml_type.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += (tensor.data.len() as u64).next_multiple_of(self.alignment);
        }
        out
    }

    /// The whole file, every tensor padded.
    pub fn file(&self) -> Vec<u8> {
        let mut out = self.header();
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        pad(&mut out);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
            pad(&mut out);
        }
        out
    }
}

/// A whole tiny model of architecture `llama`: one layer, width 8, two heads, one of keys, six tokens.
pub fn tiny_llama() -> Writer {
    let mut writer = Writer::default();
    writer
        .set("general.architecture", "llama")
        .set("general.name", "tiny")
        .set("llama.block_count", Kv::U32(1))
        .set("llama.context_length", Kv::U32(16))
        .set("llama.embedding_length", Kv::U32(8))
        .set("llama.feed_forward_length", Kv::U32(12))
        .set("llama.attention.head_count", Kv::U32(2))
        .set("llama.attention.head_count_kv", Kv::U32(1))
        .set("llama.attention.layer_norm_rms_epsilon", Kv::F32(1e-5))
        .set("llama.rope.freq_base", Kv::F32(10_000.0))
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", Kv::strs(&["<unk>", "<s>", "</s>", "<0x41>", "a", "b"]))
        .set("tokenizer.ggml.scores", Kv::F32s(vec![0.0, 0.0, 0.0, 0.0, -1.0, -2.0]))
        .set("tokenizer.ggml.token_type", Kv::I32s(vec![2, 3, 3, 6, 1, 1]))
        .set("tokenizer.ggml.bos_token_id", Kv::U32(1))
        .set("tokenizer.ggml.eos_token_id", Kv::U32(2))
        .set("tokenizer.ggml.add_bos_token", Kv::Bool(true));
    let shapes: [(&str, &[u64]); 12] = [
        ("token_embd.weight", &[8, 6]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[8, 4]),
        ("blk.0.attn_v.weight", &[8, 4]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[8, 12]),
        ("blk.0.ffn_up.weight", &[8, 12]),
        ("blk.0.ffn_down.weight", &[12, 8]),
        ("output_norm.weight", &[8]),
        ("output.weight", &[8, 6]),
    ];
    for (index, (name, dims)) in shapes.into_iter().enumerate() {
        let n_elements: u64 = dims.iter().product();
        let values: Vec<f32> =
            (0..n_elements).map(|i| ((i * 7 + index as u64) % 13) as f32 / 13.0 - 0.5).collect();
        writer.tensors.push(Tensor::f32(name, dims, &values));
    }
    writer
}
