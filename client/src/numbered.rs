//! Pages by the numbers that the broker gave them, also those that could not be mapped: whoever asks is told why.

use std::sync::Arc;

use vgem_proto::ids::PageId;

use crate::error::{Error, Result};

/// A broker gives out the lowest number that is free; the bound keeps a broken one from filling our memory.
const PAGES: usize = 1 << 16;

/// Pages of one kind.
#[derive(Debug)]
pub(crate) struct Numbered<T>(Vec<Option<Result<Arc<T>>>>);

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Numbered<T> {
    /// A page came.
    pub(crate) fn put(&mut self, number: PageId, page: Result<Arc<T>>) {
        let place = place(number);
        if place >= PAGES {
            return;
        }
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.0.get_mut(place) {
            *entry = Some(page);
        }
    }

    /// The page of this number.
    pub(crate) fn get(&self, number: PageId) -> Result<Arc<T>> {
        let found = self.0.get(place(number)).and_then(Option::as_ref);
        found.map_or_else(|| Err(never(number)), Clone::clone)
    }

    /// Forgets a page.
    pub(crate) fn take(&mut self, number: PageId) -> Option<Arc<T>> {
        self.0.get_mut(place(number)).and_then(Option::take)?.ok()
    }
}

fn place(number: PageId) -> usize {
    usize::try_from(number.0).unwrap_or(usize::MAX)
}

fn never(number: PageId) -> Error {
    if place(number) >= PAGES {
        return Error::Protocol(format!("{number} is beyond what a client has"));
    }
    Error::Protocol(format!("{number} was never handed out"))
}
