//! Blocks: operands and parameters of an entry that has more of them than fit into it.
//!
//! ```text
//!   operands u16 · params u16 · 0 u32 ── operands × 32 bytes ── params × 24 bytes
//! ```
//!
//! A driver reads the block once, into private memory, and decodes that. The operands of numbers 0 and 1 may be in the
//! entry or here, not in both; the parameters are all here. Lengths and numbers may come from a result cell, as in a
//! batch of tracked jobs: so an entry that is chained to another takes what that one produced.

use super::{EntryError, VaRange};
use crate::codec::{Field, Malformed, Reader, Writer, Zero};
use crate::jobs::ParamSource;
use crate::layout::result_cell;
use crate::limits;
use crate::record;

record! {
    /// An operand, in the client's virtual addresses.
    pub struct VaOperand {
        /// The first byte.
        pub address: u64,
        /// Bytes; with a cell the most that it may say.
        pub len: u64,
        /// Where the result cell is from which the length is read when the entry starts; 0 is nowhere.
        pub cell: u64,
        /// Place in the operation's list of operands.
        pub number: u8,
        /// With a cell: which word of it, 0 to 7.
        pub cell_word: u8,
        /// Zero.
        pub reserved: Zero<6>,
    }
}

record! {
    /// A parameter.
    pub struct VaParam {
        /// The number, or the address of the bytes or of the cell.
        pub value: u64,
        /// With [`ParamSource::Cell`]: the most the value may be.
        pub max: u64,
        /// With [`ParamSource::Bytes`]: how many.
        pub len: u32,
        /// Place in the operation's list of parameters.
        pub number: u16,
        /// Where the value is.
        pub source: ParamSource,
        /// With [`ParamSource::Cell`]: which word, 0 to 7.
        pub cell_word: u8,
    }
}

/// Bytes of a block without operands and parameters.
pub const BLOCK_HEAD_LEN: usize = 8;

/// The longest block, bytes.
pub const BLOCK_LEN: usize =
    BLOCK_HEAD_LEN + limits::JOB_OPERANDS * VaOperand::SIZE + limits::JOB_PARAMS * VaParam::SIZE;

const _: () = assert!(VaOperand::SIZE == 32 && VaParam::SIZE == 24);

impl VaOperand {
    /// Its range.
    ///
    /// # Errors
    /// As [`VaRange::new`].
    pub const fn range(&self) -> Result<VaRange, EntryError> {
        VaRange::new(self.address, self.len)
    }
}

/// A block, decoded from a private copy. Every record in it is whole; what they name is not looked at.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    operands: &'a [u8],
    params: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block in `bytes`, all of them.
    ///
    /// # Errors
    /// [`Malformed`]: too many operands or parameters, bytes that are missing or too many, a part that must be zero and
    /// is not, a source or a word of a cell that is none, a range at address 0 or that wraps, a cell that is not at a
    /// multiple of 64.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let operands = count(u16::take(r)?, "operands", limits::JOB_OPERANDS)?;
        let params = count(u16::take(r)?, "params", limits::JOB_PARAMS)?;
        Zero::<4>::take(r)?;
        let operands = r.bytes(operands * VaOperand::SIZE)?;
        let params = r.bytes(params * VaParam::SIZE)?;
        if !r.rest().is_empty() {
            return Err(Malformed::Trailing { extra: r.rest().len() });
        }
        records::<VaOperand>(operands).try_for_each(|operand| operand.and_then(check_operand))?;
        records::<VaParam>(params).try_for_each(|param| param.and_then(check_param))?;
        Ok(Self { operands, params })
    }

    /// Its operands.
    pub fn operands(&self) -> impl Iterator<Item = VaOperand> + 'a {
        // All were read once already.
        records(self.operands).filter_map(Result::ok)
    }

    /// Its parameters.
    pub fn params(&self) -> impl Iterator<Item = VaParam> + 'a {
        records(self.params).filter_map(Result::ok)
    }
}

/// The bytes of a block.
///
/// # Errors
/// [`Malformed::TooMany`] for more operands or parameters than a block takes.
pub fn encode_block(operands: &[VaOperand], params: &[VaParam]) -> Result<Vec<u8>, Malformed> {
    let mut w = Writer::new();
    number(operands.len(), "operands", limits::JOB_OPERANDS)?.put(&mut w);
    number(params.len(), "params", limits::JOB_PARAMS)?.put(&mut w);
    Zero::<4>.put(&mut w);
    operands.iter().for_each(|operand| operand.put(&mut w));
    params.iter().for_each(|param| param.put(&mut w));
    Ok(w.into_bytes())
}

fn number(count: usize, field: &'static str, limit: usize) -> Result<u16, Malformed> {
    let too_many = Malformed::TooMany { field, count: count as u64, limit: limit as u64 };
    if count > limit { Err(too_many) } else { u16::try_from(count).map_err(|_| too_many) }
}

fn count(said: u16, field: &'static str, limit: usize) -> Result<usize, Malformed> {
    let count = usize::from(said);
    if count > limit {
        return Err(Malformed::TooMany { field, count: u64::from(said), limit: limit as u64 });
    }
    Ok(count)
}

fn records<T: Field>(bytes: &[u8]) -> impl Iterator<Item = Result<T, Malformed>> {
    bytes.chunks_exact(T::SIZE).map(|one| T::take(&mut Reader::new(one)))
}

fn check_operand(operand: VaOperand) -> Result<(), Malformed> {
    check_range("operand", operand.address, operand.len)?;
    match (operand.cell, operand.cell_word) {
        (0, 0) => Ok(()),
        (0, word) => Err(Malformed::BadValue { field: "cell word", value: u64::from(word) }),
        (cell, word) => check_cell(cell, word),
    }
}

fn check_param(param: VaParam) -> Result<(), Malformed> {
    let zero = |field, value| if value == 0 { Ok(()) } else { Err(Malformed::BadValue { field, value }) };
    let (max, len, word) = (param.max, u64::from(param.len), u64::from(param.cell_word));
    match param.source {
        ParamSource::Value => zero("max", max).and(zero("length", len)).and(zero("cell word", word)),
        ParamSource::Bytes => {
            zero("max", max).and(zero("cell word", word))?;
            check_range("bytes", param.value, len)
        }
        ParamSource::Cell => zero("length", len).and(check_cell(param.value, param.cell_word)),
    }
}

fn check_range(field: &'static str, address: u64, len: u64) -> Result<(), Malformed> {
    VaRange::new(address, len).map(|_| ()).map_err(|_| Malformed::BadValue { field, value: address })
}

fn check_cell(address: u64, word: u8) -> Result<(), Malformed> {
    let wrong = |field, value| Malformed::BadValue { field, value };
    if usize::from(word) >= result_cell::WORDS {
        return Err(wrong("cell word", u64::from(word)));
    }
    if !address.is_multiple_of(result_cell::LEN as u64) {
        return Err(wrong("cell", address));
    }
    check_range("cell", address, result_cell::LEN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand() -> VaOperand {
        VaOperand { address: 0x1000, len: 32, cell: 0, number: 2, cell_word: 0, reserved: Zero }
    }

    fn param() -> VaParam {
        VaParam { value: 9, max: 0, len: 0, number: 1, source: ParamSource::Value, cell_word: 0 }
    }

    fn decoded(operands: &[VaOperand], params: &[VaParam]) -> Result<(), Malformed> {
        let bytes = encode_block(operands, params)?;
        let block = Block::decode(&bytes)?;
        assert!(block.operands().eq(operands.iter().copied()) && block.params().eq(params.iter().copied()));
        Ok(())
    }

    #[test]
    fn a_block_holds_as_many_as_a_job_may_have() {
        let (operands, params) = ([operand(); limits::JOB_OPERANDS], [param(); limits::JOB_PARAMS]);
        assert_eq!(decoded(&operands, &params), Ok(()));
        assert_eq!(encode_block(&operands, &params).map(|bytes| bytes.len()), Ok(BLOCK_LEN));
        assert!(encode_block(&[operand(); limits::JOB_OPERANDS + 1], &[]).is_err());
    }

    #[test]
    fn every_cut_of_a_block_is_refused_and_so_is_a_byte_more() {
        let mut bytes = encode_block(&[operand()], &[param()]).unwrap();
        for len in 0..bytes.len() {
            assert!(Block::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        bytes.push(0);
        assert_eq!(Block::decode(&bytes).err(), Some(Malformed::Trailing { extra: 1 }));
    }

    #[test]
    fn a_cell_is_64_aligned_bytes_and_has_eight_words() {
        let cell = |cell, cell_word| decoded(&[VaOperand { cell, cell_word, ..operand() }], &[]);
        assert_eq!(cell(64, 7), Ok(()));
        assert!(cell(64, 8).is_err() && cell(65, 0).is_err() && cell(0, 1).is_err());
        let source = ParamSource::Cell;
        let cell = |value, cell_word| decoded(&[], &[VaParam { value, source, cell_word, ..param() }]);
        assert_eq!(cell(64, 7), Ok(()));
        assert!(cell(64, 8).is_err() && cell(65, 0).is_err() && cell(0, 0).is_err());
    }

    #[test]
    fn a_record_says_nothing_where_it_means_nothing() {
        assert!(decoded(&[], &[VaParam { max: 1, ..param() }]).is_err());
        assert!(decoded(&[], &[VaParam { len: 1, ..param() }]).is_err());
        let bytes = VaParam { source: ParamSource::Bytes, value: 0x1000, len: 12, ..param() };
        assert_eq!(decoded(&[], &[bytes]), Ok(()));
        assert!(decoded(&[], &[VaParam { cell_word: 1, ..bytes }]).is_err());
        assert!(decoded(&[], &[VaParam { value: u64::MAX, ..bytes }]).is_err());
    }
}
