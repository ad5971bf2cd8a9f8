//! How a job names what it is given: operands and parameters by name or resolved before, values of any plain type, fences and
//! earlier jobs to wait for.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::batch::JobRef;
use crate::device::{OperandKey, ParamKey};
use crate::fence::Fence;

/// How a job names an operand: by name, or resolved before.
#[derive(Debug, Clone, Copy)]
pub enum OperandChoice<'a> {
    /// By name.
    Name(&'a str),
    /// Resolved.
    Key(OperandKey),
}

/// How a job names a parameter: by name, or resolved before.
#[derive(Debug, Clone, Copy)]
pub enum ParamChoice<'a> {
    /// By name.
    Name(&'a str),
    /// Resolved.
    Key(ParamKey),
}

/// The value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamValue<'a> {
    /// A number, or the place of a word of a choice.
    Number(u64),
    /// A word of a choice, or the bytes of a text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A number that is none of the wire's.
    Negative(i64),
}

/// What a job waits for: a fence, or an earlier job of the same batch.
#[derive(Debug, Clone, Copy)]
pub enum WaitOn<'a> {
    /// A job that was submitted before.
    Fence(&'a Fence),
    /// A job of this batch.
    Job(JobRef),
}

impl<'a> From<&'a str> for OperandChoice<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl From<OperandKey> for OperandChoice<'_> {
    fn from(key: OperandKey) -> Self {
        Self::Key(key)
    }
}

impl<'a> From<&'a str> for ParamChoice<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl From<ParamKey> for ParamChoice<'_> {
    fn from(key: ParamKey) -> Self {
        Self::Key(key)
    }
}

impl From<u64> for ParamValue<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for ParamValue<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for ParamValue<'_> {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<i32> for ParamValue<'_> {
    fn from(number: i32) -> Self {
        u64::try_from(number).map_or(Self::Negative(number.into()), Self::Number)
    }
}

impl<'a> From<&'a str> for ParamValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for ParamValue<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for ParamValue<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Path> for ParamValue<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Bytes(path.as_os_str().as_bytes())
    }
}

impl<'a> From<&'a Fence> for WaitOn<'a> {
    fn from(fence: &'a Fence) -> Self {
        Self::Fence(fence)
    }
}

impl From<JobRef> for WaitOn<'_> {
    fn from(job: JobRef) -> Self {
        Self::Job(job)
    }
}
