//! How a device describes itself: operations, operands, parameters, limits.
//!
//! The broker checks jobs against this description and knows no operation by name; the client library and
//! `vgemctl` build their jobs from it. A description is data: the driver prints it with `--describe` and sends
//! it again when it starts.
//!
//! Operands are numbered by their place in [`Operation::operands`], parameters by theirs in
//! [`Operation::params`]; operations carry their own number. Every operation ends with an optional operand of
//! direction [`Direction::Cell`], the result cell, which [`Operation::with_result`] adds.

use crate::codec::{Field, Malformed, Reader, Writer};
use crate::limits;

/// What a device offers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// Name of the device, as in `vgemctl run NAME ..`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Jobs the device runs at the same time.
    pub executors: u16,
    /// What it can do.
    pub operations: Vec<Operation>,
}

/// One operation of a device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Operation {
    /// Its number on the wire.
    pub number: u16,
    /// Its name, as in `vgemctl run DEVICE NAME ..`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Whether it may be run again after a reset with the same result.
    pub idempotent: bool,
    /// Longest run time, milliseconds, of a job that does not say one.
    pub run_ms: u32,
    /// Its operands, in order.
    pub operands: Vec<OperandSpec>,
    /// Its parameters, in order.
    pub params: Vec<ParamSpec>,
    /// What word 1 of the result cell means; empty if nothing.
    pub value: String,
}

/// The number of the operation **publish**, which every device has and none describes.
pub const PUBLISH: u16 = u16::MAX;
/// Operands of publish that are written, numbered from 0.
pub const PUBLISH_WRITTEN: u8 = 8;
/// Operands of publish that are read, numbered from [`PUBLISH_WRITTEN`].
pub const PUBLISH_READ: u8 = 8;

/// The operation publish: a tracked job that does nothing, and by that says of its operands what whatever it waits for does
/// to them.
///
/// It is how a point of a user queue gets into the reservations of objects: the job waits for it ([`crate::jobs::WAIT_UNTIL`])
/// and names them. It touches no bytes.
#[must_use]
pub fn publish() -> Operation {
    let operand = |direction, kind: &str, number: u8| OperandSpec {
        name: format!("{kind}{number}"),
        direction,
        required: false,
        touch: Touch::InPlace,
        align: 1,
        len: (0, limits::OBJECT_LEN),
    };
    let written = (0..PUBLISH_WRITTEN).map(|number| operand(Direction::InOut, "written", number));
    let read = (0..PUBLISH_READ).map(|number| operand(Direction::In, "read", number));
    let summary = "say what the entries of a user queue do to objects";
    Operation {
        run_ms: 1000,
        operands: written.chain(read).collect(),
        ..Operation::new(PUBLISH, "publish", summary)
    }
}

/// Which way an operand's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Read by the operation.
    In,
    /// Written; the old content does not matter.
    Out,
    /// Read and written, or written in part.
    InOut,
    /// The result cell: 64 aligned bytes that the SDK writes before the signal.
    Cell,
}

/// How an engine touches an operand that others may change meanwhile (DESIGN section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Touch {
    /// Where it lies, through raw pointers.
    InPlace,
    /// Through private windows, copied in or out by the SDK.
    Windows,
}

/// One operand of an operation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OperandSpec {
    /// Its name.
    pub name: String,
    /// Which way its bytes go.
    pub direction: Direction,
    /// Whether it must be there.
    pub required: bool,
    /// How the engine touches it.
    pub touch: Touch,
    /// Offset must be a multiple of this, bytes.
    pub align: u32,
    /// Smallest and largest length, bytes.
    pub len: (u64, u64),
}

/// One parameter of an operation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ParamSpec {
    /// Its name, as in `--param NAME=value`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// What it may hold.
    pub kind: ParamKind,
}

/// What a parameter may hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamKind {
    /// A number in a range; without a default it is required.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// Used when absent.
        default: Option<u64>,
    },
    /// One of several words, sent as its place in the list; without a default it is required.
    Choice {
        /// The words.
        words: Vec<String>,
        /// Place of the word used when absent.
        default: Option<u16>,
    },
    /// Bytes (a path, a name), up to a length; required or not.
    Bytes {
        /// Most bytes.
        max_len: u32,
        /// Whether it must be there.
        required: bool,
    },
}

impl Description {
    /// A description without operations.
    #[must_use]
    pub fn new(name: &str, summary: &str, executors: u16) -> Self {
        Self { name: name.into(), summary: summary.into(), executors, operations: Vec::new() }
    }

    /// Adds an operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// The operation with this number.
    #[must_use]
    pub fn by_number(&self, number: u16) -> Option<&Operation> {
        match self.operations.get(usize::from(number)) {
            Some(operation) if operation.number == number => Some(operation),
            _ => self.operations.iter().find(|o| o.number == number),
        }
    }

    /// The operation with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|o| o.name == name)
    }

    /// The bytes sent to the broker and on to clients.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        put_text(&mut w, &self.name);
        put_text(&mut w, &self.summary);
        self.executors.put(&mut w);
        put_list(&mut w, &self.operations, put_operation);
        w.into_bytes()
    }

    /// The description in `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] if they are not one: more than [`limits::DESCRIPTION_LEN`] bytes, a default outside its
    /// range, an alignment that is no power of two, one number for two operations or that of [`publish`], or bytes that
    /// make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > limits::DESCRIPTION_LEN {
            return Err(Malformed::TooMany {
                field: "description",
                count: bytes.len() as u64,
                limit: limits::DESCRIPTION_LEN as u64,
            });
        }
        let r = &mut Reader::new(bytes);
        let description = Self {
            name: take_text(r, "device name", limits::NAME_LEN)?,
            summary: take_text(r, "summary", limits::TEXT_LEN)?,
            executors: u16::take(r)?,
            operations: take_list(r, "operations", 256, take_operation)?,
        };
        for (at, operation) in description.operations.iter().enumerate() {
            let before = description.operations.iter().take(at).any(|o| o.number == operation.number);
            if before || operation.number == PUBLISH {
                let value = u64::from(operation.number);
                return Err(Malformed::BadValue { field: "operation number", value });
            }
        }
        match r.rest().len() {
            0 => Ok(description),
            extra => Err(Malformed::Trailing { extra }),
        }
    }
}

impl Operation {
    /// An operation without operands and parameters; idempotent, with 10 s of run time.
    #[must_use]
    pub fn new(number: u16, name: &str, summary: &str) -> Self {
        Self {
            number,
            name: name.into(),
            summary: summary.into(),
            idempotent: true,
            run_ms: 10_000,
            operands: Vec::new(),
            params: Vec::new(),
            value: String::new(),
        }
    }

    /// Says that running it twice is not the same as running it once.
    #[must_use]
    pub fn not_idempotent(mut self) -> Self {
        self.idempotent = false;
        self
    }

    /// Adds an operand that must be there, of any length and alignment.
    #[must_use]
    pub fn operand(mut self, name: &str, direction: Direction, touch: Touch) -> Self {
        let len = (0, limits::OBJECT_LEN);
        self.operands.push(OperandSpec {
            name: name.into(),
            direction,
            required: true,
            touch,
            align: 1,
            len,
        });
        self
    }

    /// Makes the last operand optional.
    #[must_use]
    pub fn optional(mut self) -> Self {
        if let Some(last) = self.operands.last_mut() {
            last.required = false;
        }
        self
    }

    /// Bounds the last operand's length, bytes.
    #[must_use]
    pub fn len_between(mut self, min: u64, max: u64) -> Self {
        if let Some(last) = self.operands.last_mut() {
            last.len = (min, max);
        }
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &str, summary: &str, min: u64, max: u64, default: Option<u64>) -> Self {
        let kind = ParamKind::Number { min, max, default };
        self.params.push(ParamSpec { name: name.into(), summary: summary.into(), kind });
        self
    }

    /// Adds a choice of words; the default is a place in `words`.
    #[must_use]
    pub fn choice(mut self, name: &str, summary: &str, words: &[&str], default: Option<u16>) -> Self {
        let words = words.iter().map(|w| (*w).to_owned()).collect();
        let kind = ParamKind::Choice { words, default };
        self.params.push(ParamSpec { name: name.into(), summary: summary.into(), kind });
        self
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, name: &str, summary: &str, max_len: u32, required: bool) -> Self {
        let kind = ParamKind::Bytes { max_len, required };
        self.params.push(ParamSpec { name: name.into(), summary: summary.into(), kind });
        self
    }

    /// Adds the result cell, last; `value` says what its word 1 means.
    #[must_use]
    pub fn with_result(mut self, value: &str) -> Self {
        self.value = value.into();
        self.operands.push(OperandSpec {
            name: "result".into(),
            direction: Direction::Cell,
            required: false,
            touch: Touch::InPlace,
            align: 64,
            len: (64, 64),
        });
        self
    }

    /// Place of the operand with this name.
    #[must_use]
    pub fn operand_index(&self, name: &str) -> Option<u8> {
        self.operands.iter().position(|o| o.name == name).and_then(|i| u8::try_from(i).ok())
    }

    /// Place of the parameter with this name.
    #[must_use]
    pub fn param_index(&self, name: &str) -> Option<u16> {
        self.params.iter().position(|p| p.name == name).and_then(|i| u16::try_from(i).ok())
    }
}

fn put_text(w: &mut Writer, text: &str) {
    u16::try_from(text.len()).unwrap_or(u16::MAX).put(w);
    w.raw(text.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(text.as_bytes()));
}

fn take_text(r: &mut Reader<'_>, field: &'static str, limit: usize) -> Result<String, Malformed> {
    let len = usize::from(u16::take(r)?);
    if len > limit {
        return Err(Malformed::TooMany { field, count: len as u64, limit: limit as u64 });
    }
    let bytes = r.bytes(len)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::NotText { field })
}

fn put_list<T>(w: &mut Writer, items: &[T], put: impl Fn(&mut Writer, &T)) {
    u16::try_from(items.len()).unwrap_or(u16::MAX).put(w);
    for item in items {
        put(w, item);
    }
}

fn take_list<T>(
    r: &mut Reader<'_>,
    field: &'static str,
    limit: usize,
    take: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(u16::take(r)?);
    if count > limit {
        return Err(Malformed::TooMany { field, count: count as u64, limit: limit as u64 });
    }
    (0..count).map(|_| take(r)).collect()
}

fn put_operation(w: &mut Writer, o: &Operation) {
    o.number.put(w);
    u16::from(o.idempotent).put(w);
    o.run_ms.put(w);
    put_text(w, &o.name);
    put_text(w, &o.summary);
    put_text(w, &o.value);
    put_list(w, &o.operands, put_operand);
    put_list(w, &o.params, put_param);
}

fn take_operation(r: &mut Reader<'_>) -> Result<Operation, Malformed> {
    let number = u16::take(r)?;
    let idempotent = match u16::take(r)? {
        0 => false,
        1 => true,
        other => return Err(Malformed::BadValue { field: "idempotent", value: u64::from(other) }),
    };
    let run_ms = u32::take(r)?;
    let name = take_text(r, "operation name", limits::NAME_LEN)?;
    let summary = take_text(r, "summary", limits::TEXT_LEN)?;
    let value = take_text(r, "value", limits::TEXT_LEN)?;
    let operands = take_list(r, "operands", limits::JOB_OPERANDS, take_operand)?;
    let params = take_list(r, "params", limits::JOB_PARAMS, take_param)?;
    Ok(Operation { number, name, summary, idempotent, run_ms, operands, params, value })
}

fn put_operand(w: &mut Writer, o: &OperandSpec) {
    match o.direction {
        Direction::In => 1u8,
        Direction::Out => 2,
        Direction::InOut => 3,
        Direction::Cell => 4,
    }
    .put(w);
    u8::from(o.required).put(w);
    match o.touch {
        Touch::InPlace => 1u8,
        Touch::Windows => 2,
    }
    .put(w);
    0u8.put(w);
    o.align.put(w);
    o.len.0.put(w);
    o.len.1.put(w);
    put_text(w, &o.name);
}

fn take_operand(r: &mut Reader<'_>) -> Result<OperandSpec, Malformed> {
    let bad = |field, value: u8| Malformed::BadValue { field, value: u64::from(value) };
    let direction = match u8::take(r)? {
        1 => Direction::In,
        2 => Direction::Out,
        3 => Direction::InOut,
        4 => Direction::Cell,
        other => return Err(bad("direction", other)),
    };
    let required = match u8::take(r)? {
        0 => false,
        1 => true,
        other => return Err(bad("required", other)),
    };
    let touch = match u8::take(r)? {
        1 => Touch::InPlace,
        2 => Touch::Windows,
        other => return Err(bad("touch", other)),
    };
    if u8::take(r)? != 0 {
        return Err(Malformed::NonZeroTail);
    }
    let align = match u32::take(r)? {
        align if align.is_power_of_two() => align,
        other => return Err(Malformed::BadValue { field: "align", value: u64::from(other) }),
    };
    let len = (u64::take(r)?, u64::take(r)?);
    if len.0 > len.1 {
        return Err(Malformed::BadValue { field: "smallest length", value: len.0 });
    }
    let name = take_text(r, "operand name", limits::NAME_LEN)?;
    Ok(OperandSpec { name, direction, required, touch, align, len })
}

fn put_param(w: &mut Writer, p: &ParamSpec) {
    put_text(w, &p.name);
    put_text(w, &p.summary);
    match &p.kind {
        ParamKind::Number { min, max, default } => {
            1u8.put(w);
            u8::from(default.is_some()).put(w);
            min.put(w);
            max.put(w);
            default.unwrap_or(0).put(w);
        }
        ParamKind::Choice { words, default } => {
            2u8.put(w);
            u8::from(default.is_some()).put(w);
            default.unwrap_or(0).put(w);
            put_list(w, words, |w, word| put_text(w, word));
        }
        ParamKind::Bytes { max_len, required } => {
            3u8.put(w);
            u8::from(*required).put(w);
            max_len.put(w);
        }
    }
}

fn take_param(r: &mut Reader<'_>) -> Result<ParamSpec, Malformed> {
    let name = take_text(r, "parameter name", limits::NAME_LEN)?;
    let summary = take_text(r, "summary", limits::TEXT_LEN)?;
    let kind = u8::take(r)?;
    let flag = match u8::take(r)? {
        0 => false,
        1 => true,
        other => return Err(Malformed::BadValue { field: "parameter flag", value: u64::from(other) }),
    };
    let kind = match kind {
        1 => {
            let (min, max, default) = (u64::take(r)?, u64::take(r)?, u64::take(r)?);
            if min > max {
                return Err(Malformed::BadValue { field: "smallest number", value: min });
            }
            if flag && !(min..=max).contains(&default) {
                return Err(Malformed::BadValue { field: "default number", value: default });
            }
            ParamKind::Number { min, max, default: flag.then_some(default) }
        }
        2 => {
            let default = u16::take(r)?;
            let words = take_list(r, "words", 256, |r| take_text(r, "word", limits::NAME_LEN))?;
            if flag && usize::from(default) >= words.len() {
                return Err(Malformed::BadValue { field: "default word", value: u64::from(default) });
            }
            ParamKind::Choice { words, default: flag.then_some(default) }
        }
        3 => ParamKind::Bytes { max_len: u32::take(r)?, required: flag },
        other => return Err(Malformed::BadValue { field: "parameter kind", value: u64::from(other) }),
    };
    Ok(ParamSpec { name, summary, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Description {
        Description::new("zip", "compression", 2).operation(
            Operation::new(0, "compress", "makes it smaller")
                .operand("input", Direction::In, Touch::InPlace)
                .operand("output", Direction::Out, Touch::Windows)
                .choice("format", "container", &["gzip", "zstd"], Some(1))
                .number("level", "effort", 0, 22, None)
                .bytes("dictionary", "shared words", 4096, false)
                .with_result("nothing"),
        )
    }

    #[test]
    fn a_description_survives_the_wire() {
        assert_eq!(Description::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_cut_of_a_description_is_refused() {
        let whole = sample().encode();
        for len in 0..whole.len() {
            assert!(Description::decode(&whole[..len]).is_err(), "cut at {len}");
        }
    }
}
