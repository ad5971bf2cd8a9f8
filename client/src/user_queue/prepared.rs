//! Prepared entries: everything that can be looked up has been; addresses and numbers may still be changed.
//!
//! What fits into the 64 bytes of an entry is kept as an entry. What does not is kept as the bytes of a **block**, with
//! the places in it where addresses go that are known only when it is pushed: of the queue's result cell, and of the
//! bytes of parameters, which lie behind the block in the same piece of the arena.

use std::sync::Arc;

use vgem_proto::codec::Zero;
use vgem_proto::describe::{Direction, Operation};
use vgem_proto::jobs::ParamSource;
use vgem_proto::layout::result_cell;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, BLOCK_HEAD_LEN, Call, Entry, Order, VaOperand, VaParam, Words, Work, encode_block,
};

use super::range::AddressRange;
use crate::cell::CellWord;
use crate::device::{OperandKey, ParamKey};
use crate::error::{LocalError, Result};
use crate::lookup;

/// Bytes of an operand in a block, and of a parameter.
const OPERAND_LEN: usize = 32;
const PARAM_LEN: usize = 24;

/// An entry of one user queue, ready to be pushed as often as one likes; each push is an entry of its own.
///
/// The numbers, flags and bytes are in it. Its addresses are changed with [`Prepared::set`] and its numbers with
/// [`Prepared::set_number`], neither of which looks up a name or allocates.
///
/// ```no_run
/// # use std::time::Duration;
/// # fn f(queue: &vgem::UserQueue, from: vgem::Binding, to: vgem::Binding) -> vgem::Result<()> {
/// let mut copy = queue.entry("copy").input(from.range(..4096)).output(to.range(..4096)).prepare()?;
/// let (src, dst) = (copy.key("input")?, copy.key("output")?);
/// for page in 0..from.len() / 4096 {
///     copy.set(src, from.range(page * 4096..(page + 1) * 4096))?;
///     copy.set(dst, to.range(page * 4096..(page + 1) * 4096))?;
///     queue.forget(queue.push(&copy, Duration::from_secs(1))?)?;
/// }
/// queue.wait_all(Duration::from_secs(1))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(crate) queue: u64,
    /// The entry as it travels, but for its user and what comes into the arena.
    pub(crate) words: Words,
    pub(crate) call: Call,
    pub(crate) order: Order,
    /// Operands 0 and 1, where they are in the entry.
    pub(crate) inline: [Option<Known>; 2],
    pub(crate) extra: Option<Box<Extra>>,
    operation: Arc<Operation>,
}

/// An operand whose place is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) range: AddressRange,
    pub(crate) access: Access,
    /// A result cell: no guard has to care.
    pub(crate) quiet: bool,
}

/// What does not fit into an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// The block; none at all if it is empty.
    pub(crate) block: Vec<u8>,
    /// Operands in the block: number, and where its record begins there.
    pub(crate) operands: Vec<(u8, usize, Known)>,
    /// Cells that lengths and numbers are read from.
    pub(crate) cells: Vec<AddressRange>,
    /// The bytes of parameters, one after another.
    pub(crate) bytes: Vec<u8>,
    /// Where in the block an address of these bytes goes, and which byte it is of.
    pub(crate) texts: Vec<(usize, usize)>,
    /// Where the address of the queue's own result cell goes.
    pub(crate) result: Option<ResultAt>,
}

/// Where the address of a result cell goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultAt {
    /// Into the entry: operand 0 or 1.
    Entry(usize),
    /// Into the block.
    Block(usize),
}

impl Extra {
    /// Bytes of the arena that it takes beside a result cell: block and bytes.
    pub(crate) fn len(&self) -> usize {
        self.block.len() + self.bytes.len()
    }
}

impl Prepared {
    /// The operand of this name.
    ///
    /// # Errors
    /// [`LocalError::NoSuchOperand`] with those it has.
    pub fn key(&self, operand: &str) -> Result<OperandKey> {
        Ok(crate::device::operand_key(&self.operation, operand)?)
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// [`LocalError::NoSuchParam`] with those it has.
    pub fn param_key(&self, param: &str) -> Result<ParamKey> {
        Ok(crate::device::param_key(&self.operation, param)?)
    }

    /// Has an operand be other bytes; of one whose length comes from a cell the most that may say. Whether something is
    /// bound there is looked at when it is pushed.
    ///
    /// # Errors
    /// [`LocalError::NoSuchOperand`] if it was prepared without that operand; [`LocalError::OperandLen`];
    /// [`LocalError::BadAddress`]. Nothing has changed then.
    #[inline]
    pub fn set(&mut self, key: OperandKey, range: impl Into<AddressRange>) -> Result<()> {
        let (OperandKey(number), range) = (key, range.into());
        check_len(&self.operation, number, range.len())?;
        let wire = range.wire().map_err(|_| bad_address(&range))?;
        if let Some(Some(known)) = self.inline.get_mut(usize::from(number))
            && let Some(operand) = self.call.operands.get_mut(usize::from(number))
        {
            known.range = range;
            *operand = Some(wire);
            self.encode();
            return Ok(());
        }
        self.set_in_block(number, range)
    }

    fn set_in_block(&mut self, number: u8, range: AddressRange) -> Result<()> {
        let operands = self.extra.as_mut().map(|extra| (&mut extra.operands, &mut extra.block));
        let found = operands.and_then(|(operands, block)| {
            let one = operands.iter_mut().find(|(known, ..)| *known == number)?;
            Some((one, block))
        });
        let Some(((_, at, known), block)) = found else {
            let asked = format!("operand number {number} in this entry");
            return Err(crate::device::no_operand(&self.operation, asked).into());
        };
        known.range = range;
        put_word(block, *at, range.address());
        put_word(block, *at + 8, range.len());
        Ok(())
    }

    /// Has a parameter be another number.
    ///
    /// # Errors
    /// [`LocalError::NoSuchParam`] if it was prepared without that parameter, or with bytes or a cell in its place;
    /// [`LocalError::BadValue`]. Nothing has changed then.
    pub fn set_number(&mut self, key: ParamKey, number: u64) -> Result<()> {
        check_number(&self.operation, key, number)?;
        if let Some(extra) = self.extra.as_mut().filter(|extra| !extra.block.is_empty()) {
            if let Some(at) = number_in_block(&extra.block, key) {
                put_word(&mut extra.block, at, number);
                return Ok(());
            }
        } else if let Arguments::Inline { first, second } = &mut self.call.arguments {
            match (key.0, first, second, u32::try_from(number)) {
                (0, Some(first), ..) => {
                    *first = number;
                    self.encode();
                    return Ok(());
                }
                (1, _, Some(second), Ok(number)) => {
                    *second = number;
                    self.encode();
                    return Ok(());
                }
                _ => {}
            }
        }
        let known = self.operation.params.iter().map(|param| param.name.clone()).collect();
        let name = self.operation.params.get(usize::from(key.0)).map_or("?", |param| param.name.as_str());
        let name = format!("{name} as a number of this size in this entry");
        Err(LocalError::NoSuchParam { op: self.operation.name.clone(), name, known }.into())
    }

    /// Whether it runs only if the entry pushed before it ended well, and after it.
    pub fn set_chained(&mut self, chained: bool) {
        self.order.set(Order::CHAIN, chained);
        self.encode();
    }

    /// Whether it starts only when all entries pushed before it have ended.
    pub fn set_barrier(&mut self, barrier: bool) {
        self.order.set(Order::BARRIER, barrier);
        self.encode();
    }

    /// Writes the words anew, after a change of what they say.
    fn encode(&mut self) {
        self.words = self.words_of(&self.call);
    }

    /// The words of the entry with this call in place of its own, for the user 0.
    pub(crate) fn words_of(&self, call: &Call) -> Words {
        Entry { user: 0, order: self.order, work: Work::Call(*call) }.encode()
    }
}

/// What a draft has gathered.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) operands: Vec<Part>,
    pub(crate) params: Vec<(u16, Value)>,
    pub(crate) bytes: Vec<u8>,
    /// The operand that is the queue's own result cell.
    pub(crate) result: Option<u8>,
    pub(crate) order: Order,
}

/// An operand of a draft.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) number: u8,
    pub(crate) known: Known,
    /// The cell that its length comes from.
    pub(crate) cell: Option<(AddressRange, CellWord)>,
}

/// A parameter of a draft.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    Number(u64),
    /// From this byte on, so many.
    Bytes(usize, u32),
    Cell(AddressRange, CellWord, u64),
}

impl Parts {
    /// The prepared entry.
    pub(crate) fn prepare(self, queue: u64, operation: &Operation) -> Result<Prepared, LocalError> {
        let arguments = self.inline_arguments();
        let (mut inline, mut operands) = ([None; 2], [None; 2]);
        let mut extra = Extra { bytes: self.bytes, ..Extra::default() };
        let mut in_block = Vec::new();
        for part in self.operands {
            let place = usize::from(part.number);
            match (inline.get_mut(place), operands.get_mut(place), part.cell) {
                (Some(known), Some(operand), None) => {
                    *known = Some(part.known);
                    *operand = Some(part.known.range.wire().map_err(|_| bad_address(&part.known.range))?);
                }
                _ => in_block.push(part),
            }
        }
        let mut wire = Vec::new();
        for part in in_block {
            let at = BLOCK_HEAD_LEN + wire.len() * OPERAND_LEN;
            let (address, len) = (part.known.range.address(), part.known.range.len());
            let (cell, cell_word) = part.cell.map_or((0, 0), |(cell, word)| (cell.address(), word.number()));
            let number = part.number;
            wire.push(VaOperand { address, len, cell, number, cell_word, reserved: Zero });
            extra.operands.push((number, at, part.known));
            extra.cells.extend(part.cell.map(|(cell, _)| cell));
        }
        extra.result = self.result.map(|number| match usize::from(number) {
            place @ (0 | 1) => ResultAt::Entry(place),
            _ => {
                let at = BLOCK_HEAD_LEN + wire.len() * OPERAND_LEN;
                let (len, cell, cell_word) = (result_cell::LEN as u64, 0, 0);
                wire.push(VaOperand { address: 0, len, cell, number, cell_word, reserved: Zero });
                ResultAt::Block(at)
            }
        });
        let arguments = match arguments {
            Some(inline) if wire.is_empty() => inline,
            _ => {
                let params_at = BLOCK_HEAD_LEN + wire.len() * OPERAND_LEN;
                let mut params = Vec::new();
                for (number, value) in self.params {
                    let at = params_at + params.len() * PARAM_LEN;
                    params.push(param(number, value, at, &mut extra));
                }
                let too_many = |_| LocalError::TooMany {
                    what: "operands and parameters of an entry",
                    count: wire.len() + params.len(),
                    limit: vgem_proto::limits::JOB_OPERANDS + vgem_proto::limits::JOB_PARAMS,
                };
                extra.block = encode_block(&wire, &params).map_err(too_many)?;
                // The address is known when it is pushed.
                Arguments::NONE
            }
        };
        let needed = !extra.block.is_empty() || extra.result.is_some();
        let call = Call { op: operation.number, operands, arguments };
        let extra = needed.then(|| Box::new(extra));
        let operation = Arc::new(operation.clone());
        let words = Words::default();
        let mut prepared = Prepared { queue, words, call, order: self.order, inline, extra, operation };
        prepared.encode();
        Ok(prepared)
    }

    /// The parameters as they are in an entry, if they fit there.
    fn inline_arguments(&self) -> Option<Arguments> {
        let (mut first, mut second) = (None, None);
        for (number, value) in &self.params {
            match (number, value) {
                (0, Value::Number(number)) => first = Some(*number),
                (1, Value::Number(number)) => second = Some(u32::try_from(*number).ok()?),
                _ => return None,
            }
        }
        Some(Arguments::Inline { first, second })
    }
}

fn param(number: u16, value: Value, at: usize, extra: &mut Extra) -> VaParam {
    let plain = VaParam { value: 0, max: 0, len: 0, number, source: ParamSource::Value, cell_word: 0 };
    match value {
        Value::Number(value) => VaParam { value, ..plain },
        Value::Bytes(from, len) => {
            extra.texts.push((at, from));
            VaParam { len, source: ParamSource::Bytes, ..plain }
        }
        Value::Cell(cell, word, max) => {
            extra.cells.push(cell);
            let (value, cell_word) = (cell.address(), word.number());
            VaParam { value, max, source: ParamSource::Cell, cell_word, ..plain }
        }
    }
}

/// Where in a block the number of a parameter is, if it is there as a number.
fn number_in_block(block: &[u8], key: ParamKey) -> Option<usize> {
    let half = |at: usize| Some(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?));
    let (operands, params) = (usize::from(half(0)?), usize::from(half(2)?));
    let first = BLOCK_HEAD_LEN + operands * OPERAND_LEN;
    let mut places = (0..params).map(|place| first + place * PARAM_LEN);
    places.find(|at| half(at + 20) == Some(key.0) && block.get(at + 22) == Some(&0))
}

fn put_word(block: &mut [u8], at: usize, word: u64) {
    if let Some(place) = block.get_mut(at..at + 8) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

pub(crate) fn bad_address(range: &AddressRange) -> LocalError {
    LocalError::BadAddress { address: range.address(), len: range.len() }
}

/// Whether an operand may have this length.
#[inline]
pub(crate) fn check_len(operation: &Operation, number: u8, len: u64) -> Result<(), LocalError> {
    match operation.operands.get(usize::from(number)) {
        Some(spec) if len < spec.len.0 || len > spec.len.1 => Err(LocalError::OperandLen {
            op: operation.name.clone(),
            operand: spec.name.clone(),
            len,
            least: spec.len.0,
            most: spec.len.1,
        }),
        _ => Ok(()),
    }
}

/// Whether a parameter may have this number.
pub(crate) fn check_number(operation: &Operation, key: ParamKey, number: u64) -> Result<(), LocalError> {
    use vgem_proto::describe::ParamKind;
    let kind = operation.params.get(usize::from(key.0)).map(|param| &param.kind);
    let (least, most) = match kind {
        Some(ParamKind::Number { min, max, .. }) => (*min, *max),
        Some(ParamKind::Choice { words, .. }) => (0, (words.len() as u64).saturating_sub(1)),
        Some(ParamKind::Bytes { .. }) | None => return Ok(()),
    };
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(lookup::bad_value(operation, key, format!("{number} is not from {least} to {most}")))
}

/// Which way bytes go, as an access.
pub(crate) fn access_of(direction: Direction) -> Access {
    match direction {
        Direction::In => Access::Read,
        Direction::Out | Direction::InOut | Direction::Cell => Access::Write,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use vgem_proto::describe::{OperandSpec, ParamKind, ParamSpec, Touch};

    use super::*;

    /// Operands 0 to 2, of which the last is only ever in a block, and parameters 0 to 2, likewise.
    const EACH: usize = 3;

    fn operation() -> Operation {
        let operand = |name: &str| OperandSpec {
            name: name.into(),
            direction: Direction::InOut,
            required: false,
            touch: Touch::InPlace,
            align: 1,
            len: (0, 1 << 20),
        };
        let number = |name: &str| ParamSpec {
            name: name.into(),
            summary: String::new(),
            kind: ParamKind::Number { min: 0, max: 1 << 40, default: Some(0) },
        };
        Operation {
            number: 3,
            name: "mix".into(),
            summary: String::new(),
            idempotent: true,
            run_ms: 1,
            operands: ["a", "b", "c"].map(operand).into(),
            params: ["x", "y", "z"].map(number).into(),
            value: String::new(),
        }
    }

    /// What is to be in an entry.
    #[derive(Debug, Clone)]
    struct Wanted {
        operands: [Option<(u64, u64, bool)>; EACH],
        params: [Option<u64>; EACH],
        result: bool,
        order: Order,
    }

    impl Wanted {
        /// An entry that was never another.
        fn prepare(&self) -> Prepared {
            let cell = (AddressRange::new(0x5000, 64), CellWord::Value);
            let operands = (0..).zip(self.operands).filter_map(|(number, operand)| {
                let (address, len, from_cell) = operand?;
                let range = AddressRange::new(address, len);
                let known = Known { range, access: Access::Write, quiet: false };
                Some(Part { number, known, cell: from_cell.then_some(cell) })
            });
            let params =
                (0..).zip(self.params).filter_map(|(number, value)| Some((number, Value::Number(value?))));
            let parts = Parts {
                operands: operands.collect(),
                params: params.collect(),
                bytes: Vec::new(),
                result: (self.result && self.operands[1].is_none()).then_some(1),
                order: self.order,
            };
            parts.prepare(1, &operation()).expect("a good entry")
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, u64, u64),
        SetNumber(u16, u64),
        Chained(bool),
        Barrier(bool),
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        let operand = || proptest::option::of((1_u64..1 << 40, 1_u64..1 << 20, any::<bool>()));
        let number = || proptest::option::of(0_u64..1 << 32);
        let (operands, params) = ([operand(), operand(), operand()], [number(), number(), number()]);
        (operands, params, any::<bool>()).prop_map(|(mut operands, mut params, result)| {
            // More often than not it fits into its 64 bytes.
            if !result {
                (operands[2], params[2]) = (None, None);
            }
            Wanted { operands, params, result, order: Order::empty() }
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..4, prop_oneof![any::<u64>(), 1_u64..1 << 40], 0_u64..1 << 21)
                .prop_map(|(number, address, len)| Step::Set(number, address, len)),
            (0_u16..4, 0_u64..1 << 42).prop_map(|(number, value)| Step::SetNumber(number, value)),
            any::<bool>().prop_map(Step::Chained),
            any::<bool>().prop_map(Step::Barrier),
        ]
    }

    /// Does a step to both, if it is a good one.
    fn change(prepared: &mut Prepared, wanted: &mut Wanted, step: Step) {
        match step {
            Step::Set(number, address, len) => {
                if prepared.set(OperandKey(number), AddressRange::new(address, len)).is_ok()
                    && let Some(Some(operand)) = wanted.operands.get_mut(usize::from(number))
                {
                    (operand.0, operand.1) = (address, len);
                }
            }
            Step::SetNumber(number, value) => {
                // The second is of 32 bits in an entry; one that is larger has a block from the start.
                let value = if number == 0 { value } else { value >> 10 };
                if prepared.set_number(ParamKey(number), value).is_ok()
                    && let Some(Some(param)) = wanted.params.get_mut(usize::from(number))
                {
                    *param = value;
                }
            }
            Step::Chained(chained) => {
                prepared.set_chained(chained);
                wanted.order.set(Order::CHAIN, chained);
            }
            Step::Barrier(barrier) => {
                prepared.set_barrier(barrier);
                wanted.order.set(Order::BARRIER, barrier);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_entry_that_was_changed_travels_as_one_that_was_never_another(
            mut wanted in wanted(),
            steps in vec(step(), 0..12),
        ) {
            let mut prepared = wanted.prepare();
            for step in steps {
                change(&mut prepared, &mut wanted, step);
                let fresh = wanted.prepare();
                prop_assert_eq!(prepared.words, fresh.words);
                prop_assert_eq!(prepared.words, prepared.words_of(&prepared.call));
                let of = |prepared: &Prepared| prepared.extra.as_ref().map(|extra| (extra.block.clone(), extra.result));
                prop_assert_eq!(of(&prepared), of(&fresh));
            }
        }
    }
}
