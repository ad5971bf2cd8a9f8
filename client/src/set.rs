//! Sets: equal buffers that are made together, because that costs few requests.
//!
//! One request makes up to 64 of them and one commits them; a larger set takes as many pairs. A set is made whole or not
//! at all. It is no object of its own: each buffer in it lives and ends by itself.

use std::ops::Deref;

use vgem_proto::limits;

use crate::buffer::Buffer;
use crate::error::{LocalError, Result};

/// Equal buffers that were made together. It is used as the slice of them.
#[derive(Debug)]
pub struct BufferSet(Vec<Buffer>);

impl BufferSet {
    /// How many buffers each request makes, for `count` of them.
    pub(crate) fn parts(count: usize) -> Result<impl Iterator<Item = usize>> {
        if count == 0 {
            return Err(LocalError::Empty { what: "set of buffers" }.into());
        }
        let (whole, rest) = (count / limits::OBJECTS_AT_ONCE, count % limits::OBJECTS_AT_ONCE);
        Ok(std::iter::repeat_n(limits::OBJECTS_AT_ONCE, whole).chain((rest > 0).then_some(rest)))
    }

    pub(crate) fn new(buffers: Vec<Buffer>) -> Self {
        Self(buffers)
    }

    /// The buffers by themselves.
    #[must_use]
    pub fn into_vec(self) -> Vec<Buffer> {
        self.0
    }
}

impl Deref for BufferSet {
    type Target = [Buffer];

    fn deref(&self) -> &[Buffer] {
        &self.0
    }
}

impl IntoIterator for BufferSet {
    type Item = Buffer;
    type IntoIter = std::vec::IntoIter<Buffer>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a BufferSet {
    type Item = &'a Buffer;
    type IntoIter = std::slice::Iter<'a, Buffer>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_made_with_as_few_requests_as_the_wire_allows() {
        let parts = |count| BufferSet::parts(count).map(|parts| parts.collect::<Vec<_>>()).ok();
        assert_eq!((parts(1), parts(64), parts(130)), (Some(vec![1]), Some(vec![64]), Some(vec![64, 64, 2])));
        assert_eq!(parts(0), None);
    }
}
