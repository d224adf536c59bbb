//! Pieces of files in, weights out: in order, in whole words, converted where that is needed.
//!
//! Principal type: [`Assembler`]. Bytes that a backend can take as they come pass through; what comes too early, or
//! has to be converted, is held until it is due. Must not know backends.

use std::collections::BTreeMap;

use super::checkpoint::{Step, Unit};
use super::map::{Piece, WeightMap};
use super::requantize::Requantizer;
use crate::error::{Error, ErrorCode, Result};

/// Weights are written to the GPU in whole 32-bit words.
const WORD: usize = 4;

/// Who takes the assembled bytes: `(weight, offset within the weight, bytes)`. The pieces of a weight follow each
/// other; each starts at a multiple of 4, and ends at one unless it is the weight's last.
pub trait Sink: FnMut(usize, u64, &[u8]) -> Result<()> {}
impl<F: FnMut(usize, u64, &[u8]) -> Result<()>> Sink for F {}

/// Puts weights together while their files arrive.
pub struct Assembler<'a> {
    map: &'a WeightMap,
    weights: Vec<Progress>,
    /// Away while it is at work.
    requantizer: Option<Requantizer>,
}

/// How far a weight is.
#[derive(Default)]
struct Progress {
    /// The unit that is due.
    unit: usize,
    /// Bytes of that unit that have gone out or wait in `tail`.
    within: u64,
    /// Bytes that the sink has taken.
    sent: u64,
    /// Bytes that do not make a word yet.
    tail: Vec<u8>,
    /// Inputs that have come before their unit was due, or before it was complete, by unit and input.
    held: BTreeMap<(usize, usize), Vec<u8>>,
}

impl<'a> Assembler<'a> {
    /// Nothing has come yet.
    pub fn new(map: &'a WeightMap) -> Self {
        let weights = (0..map.len()).map(|_| Progress::default()).collect();
        Self { map, weights, requantizer: Some(Requantizer::default()) }
    }

    /// Takes the bytes of `piece`, and hands on what is due.
    /// # Errors
    /// What a conversion or the sink says; `Internal` for pieces out of order, `OutOfMemory`.
    pub fn take(&mut self, piece: &Piece, bytes: &[u8], sink: &mut impl Sink) -> Result<()> {
        self.requantized(sink, |this, sink| this.assemble(piece, bytes, sink))
    }

    /// Runs `what` with a sink that changes formats before it hands on to `sink`.
    fn requantized(
        &mut self,
        sink: &mut impl Sink,
        what: impl FnOnce(&mut Self, &mut dyn FnMut(usize, u64, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let map = self.map;
        let mut requantizer = self.requantizer.take().unwrap_or_default();
        let result =
            what(self, &mut |weight, offset, bytes| requantizer.take(map, weight, offset, bytes, sink));
        self.requantizer = Some(requantizer);
        result
    }

    /// As [`Assembler::take`], in the formats of the files.
    fn assemble(&mut self, piece: &Piece, bytes: &[u8], mut sink: impl Sink) -> Result<()> {
        let sink = &mut sink;
        // What is left of a piece that went straight to the backend; its unit may be done.
        if bytes.is_empty() {
            return self.advance(piece.weight, sink);
        }
        let units = &self.map.weight(piece.weight).units;
        let unit = &units[piece.unit];
        let progress = &mut self.weights[piece.weight];
        let key = (piece.unit, piece.input);
        let due = matches!(unit.step, Step::Copy) && progress.unit == piece.unit;
        if due && !progress.held.contains_key(&key) {
            if progress.within != piece.offset {
                return Err(out_of_order(self.map, piece));
            }
            self.emit(piece.weight, bytes, sink)?;
        } else {
            let held = progress.held.entry(key).or_default();
            if held.len() as u64 != piece.offset {
                return Err(out_of_order(self.map, piece));
            }
            held.try_reserve_exact(match held.is_empty() {
                true => usize::try_from(unit.inputs[piece.input].n_bytes).unwrap_or(usize::MAX),
                false => bytes.len(),
            })
            .map_err(|error| out_of_memory(self.map, piece.weight).caused_by(error))?;
            held.extend_from_slice(bytes);
        }
        self.advance(piece.weight, sink)
    }

    /// How many of the next bytes of `piece` the sink could take from where they are, without passing through here:
    /// none where they have to wait or be converted. The first value is how many have to go through
    /// [`Assembler::take`] before, to complete a word.
    pub fn straight(&self, piece: &Piece) -> (usize, usize) {
        let progress = &self.weights[piece.weight];
        let weight = self.map.weight(piece.weight);
        let as_it_is = self.map.dtype(piece.weight) == weight.dtype;
        let due =
            as_it_is && matches!(weight.units[piece.unit].step, Step::Copy) && progress.unit == piece.unit;
        if !due || progress.within != piece.offset || progress.held.contains_key(&(piece.unit, piece.input)) {
            return (piece.range.len(), 0);
        }
        let lead = (WORD - progress.tail.len()) % WORD;
        if lead >= piece.range.len() {
            return (piece.range.len(), 0);
        }
        let n = piece.range.len() - lead;
        let end = progress.sent + (progress.tail.len() + lead + n) as u64;
        (lead, if end == weight.n_bytes() { n } else { n - n % WORD })
    }

    /// Takes note that the sink has taken the first `n` bytes of `piece` by itself, and says where in the weight they
    /// belong; only after [`Assembler::straight`] has said so.
    pub fn passed(&mut self, piece: &Piece, n: usize) -> u64 {
        let progress = &mut self.weights[piece.weight];
        let offset = progress.sent;
        progress.sent += n as u64;
        progress.within += n as u64;
        if progress.within == self.map.weight(piece.weight).units[piece.unit].n_bytes {
            progress.unit += 1;
            progress.within = 0;
        }
        offset
    }

    /// Hands on what stands in no file, and checks that nothing is missing.
    /// # Errors
    /// As [`Assembler::take`]; `Truncated` names a weight of which bytes are missing.
    pub fn finish(mut self, sink: &mut impl Sink) -> Result<()> {
        for index in 0..self.weights.len() {
            self.requantized(sink, |this, mut sink| this.advance(index, &mut sink))?;
            let (sent, total) = (self.weights[index].sent, self.map.weight(index).n_bytes());
            if sent != total {
                let message = format!("only {sent} of {total} bytes came");
                let name = &self.map.weight(index).name;
                return Err(Error::new(ErrorCode::Truncated, message).at(name));
            }
        }
        Ok(())
    }

    /// Goes through the units that are complete or can begin.
    fn advance(&mut self, weight: usize, sink: &mut impl Sink) -> Result<()> {
        let units = &self.map.weight(weight).units;
        loop {
            let progress = &mut self.weights[weight];
            let index = progress.unit;
            let Some(unit) = units.get(index) else { return Ok(()) };
            match &unit.step {
                Step::Copy => {
                    if let Some(held) = progress.held.remove(&(index, 0)) {
                        self.emit(weight, &held, sink)?;
                    }
                }
                Step::Inline(bytes) => {
                    self.emit_range(weight, unit, bytes, sink)?;
                }
                Step::Convert(conversion) => {
                    let whole = |(input, extent): (usize, &super::Extent)| {
                        let held = progress.held.get(&(index, input)).map_or(0, Vec::len);
                        held as u64 == extent.n_bytes
                    };
                    if !unit.inputs.iter().enumerate().all(whole) {
                        return Ok(());
                    }
                    let inputs: Vec<Vec<u8>> = (0..unit.inputs.len())
                        .map(|input| progress.held.remove(&(index, input)).unwrap_or_default())
                        .collect();
                    let name = &self.map.weight(weight).name;
                    let converted = conversion.run(&inputs).map_err(|error| {
                        let at = error.field().map_or(name.clone(), |field| format!("{name} ({field})"));
                        error.at(at)
                    })?;
                    drop(inputs);
                    self.emit_range(weight, unit, &converted, sink)?;
                }
            }
            let progress = &mut self.weights[weight];
            if progress.within != unit.n_bytes {
                return Ok(());
            }
            progress.unit += 1;
            progress.within = 0;
        }
    }

    /// Emits the part of a step's result that is the unit's own.
    fn emit_range(&mut self, weight: usize, unit: &Unit, result: &[u8], sink: &mut impl Sink) -> Result<()> {
        let range = usize::try_from(unit.skip).ok().zip(usize::try_from(unit.skip + unit.n_bytes).ok());
        let Some(bytes) = range.and_then(|(from, to)| result.get(from..to)) else {
            let message = format!(
                "the conversion gave {} bytes where {} were expected",
                result.len(),
                unit.skip + unit.n_bytes
            );
            let name = &self.map.weight(weight).name;
            return Err(Error::new(ErrorCode::Internal, message).at(name));
        };
        self.emit(weight, bytes, sink)
    }

    /// Hands the next bytes of a weight to the sink, in whole words but for its last.
    fn emit(&mut self, weight: usize, mut bytes: &[u8], sink: &mut impl Sink) -> Result<()> {
        let total = self.map.weight(weight).n_bytes();
        let progress = &mut self.weights[weight];
        progress.within += bytes.len() as u64;
        if !progress.tail.is_empty() {
            let missing = (WORD - progress.tail.len()).min(bytes.len());
            progress.tail.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            let at_end = progress.sent + progress.tail.len() as u64 == total;
            if progress.tail.len() == WORD || at_end {
                sink(weight, progress.sent, &progress.tail)?;
                progress.sent += progress.tail.len() as u64;
                progress.tail.clear();
            }
        }
        let at_end = progress.sent + (progress.tail.len() + bytes.len()) as u64 == total;
        let now = if at_end { bytes.len() } else { bytes.len() - bytes.len() % WORD };
        if now > 0 {
            sink(weight, progress.sent, &bytes[..now])?;
            progress.sent += now as u64;
        }
        progress.tail.extend_from_slice(&bytes[now..]);
        Ok(())
    }
}

fn out_of_order(map: &WeightMap, piece: &Piece) -> Error {
    let message = format!("bytes from {} came out of order", piece.offset);
    Error::new(ErrorCode::Internal, message).at(&map.weight(piece.weight).name)
}

fn out_of_memory(map: &WeightMap, weight: usize) -> Error {
    let message = "no memory to put the tensor together; take a smaller model";
    Error::new(ErrorCode::OutOfMemory, message).at(&map.weight(weight).name)
}
