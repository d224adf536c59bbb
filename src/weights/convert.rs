//! What tensors go through on their way from a file into a backend, where the file has them in another layout.
//!
//! Principal type: [`Conversion`]. Works on the bytes of one unit of a tensor at a time; must not know names.

use crate::error::Result;

/// How the inputs of a unit become its bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Floats of either width, plus one: norm weights that are stored as their distance from 1 (Gemma).
    AddOne(crate::tensor::DType),
}

impl Conversion {
    /// The converted bytes. `inputs` are whole.
    /// # Errors
    /// `Malformed` or `InvalidValue` when the inputs contradict what their shapes promised.
    pub fn run(&self, inputs: &[Vec<u8>]) -> Result<Vec<u8>> {
        match self {
            Conversion::AddOne(dtype) => {
                let bytes = inputs.first().map_or(&[][..], Vec::as_slice);
                let format = crate::quant::format(*dtype);
                let mut values = vec![0.0; bytes.len() / format.block_bytes * format.block_len];
                (format.dequant)(bytes, &mut values);
                Ok(values.iter().flat_map(|value| (value + 1.0).to_le_bytes()).collect())
            }
        }
    }
}
