//! The pages that the broker has handed out, by their numbers: those this client observes, and those it signals in.
//!
//! What arrives is taken in in the order it came, and numbers are used again: so where a timeline is to be shown is turned
//! into pages at once, and a page that is dropped goes before another gets its number. A page that could not be mapped is
//! kept as the reason, for whoever asks for it.

use std::sync::Arc;

use vgem_os::fence::{ObserverFds, SignallerFds, Slot};
use vgem_proto::ids::{PageId, TimelineHandle};
use vgem_proto::message::client::Shown;

use crate::error::{Error, Result};
use crate::exchange::{ArrivedPage, PageKind};
use crate::pages::Observer;
use crate::signals::{Place, SignalPage};

/// A broker gives out the lowest number that is free; the bound keeps a broken one from filling our memory.
const PAGES: usize = 1 << 16;

/// All pages of a client.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    observed: Numbered<Observer>,
    signalled: Numbered<SignalPage>,
    /// Where to show timelines, and where not any more; not taken yet.
    pub(crate) shown: Vec<ShownPlace>,
}

/// A place in which a timeline is to be shown, or not any more.
#[derive(Debug)]
pub(crate) struct ShownPlace {
    pub(crate) timeline: TimelineHandle,
    pub(crate) place: Place,
    pub(crate) stop: bool,
}

/// Pages of one kind.
#[derive(Debug)]
struct Numbered<T>(Vec<Option<Result<Arc<T>>>>);

impl Pages {
    /// The page of this number that this client observes.
    pub(crate) fn observed(&self, number: PageId) -> Result<Arc<Observer>> {
        self.observed.get(number)
    }

    /// The page of this number that this client signals in.
    pub(crate) fn signalled(&self, number: PageId) -> Result<Arc<SignalPage>> {
        self.signalled.get(number)
    }

    /// A page came.
    pub(crate) fn put(&mut self, ArrivedPage { kind, number, fds: [page, interest] }: ArrivedPage) {
        match kind {
            PageKind::Observed => {
                let mapped = Observer::map(ObserverFds { page, interest });
                self.observed.put(number, mapped.map(Arc::new));
            }
            PageKind::Signalled => {
                let mapped = SignalPage::map(SignallerFds { page, interest });
                self.signalled.put(number, mapped.map(Arc::new));
            }
        }
    }

    /// The broker said what to show.
    pub(crate) fn show(&mut self, Shown { places, dropped, .. }: &Shown) {
        for told in places {
            // A broker that names no page of ours gets nothing shown.
            if let (Some(slot), Ok(page)) = (Slot::new(told.slot), self.signalled(told.page)) {
                let (timeline, place) = (told.timeline, Place { page, slot });
                self.shown.push(ShownPlace { timeline, place, stop: told.shown == 0 });
            }
        }
        dropped.iter().for_each(|number| self.signalled.forget(*number));
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Numbered<T> {
    fn put(&mut self, number: PageId, page: Result<Arc<T>>) {
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

    fn get(&self, number: PageId) -> Result<Arc<T>> {
        let found = self.0.get(place(number)).and_then(Option::as_ref);
        found.map_or_else(|| Err(never(number)), Clone::clone)
    }

    fn forget(&mut self, number: PageId) {
        if let Some(entry) = self.0.get_mut(place(number)) {
            *entry = None;
        }
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

#[cfg(test)]
mod tests {
    use vgem_os::fence::PagePair;
    use vgem_proto::codec::Zero;
    use vgem_proto::jobs::ShownTimeline;

    use super::*;

    const NUMBER: PageId = PageId(3);

    fn page() -> ArrivedPage {
        let keeper = PagePair::create().expect("a page pair");
        let fds = keeper.signaller_fds().expect("fds");
        ArrivedPage { kind: PageKind::Signalled, number: NUMBER, fds: [fds.page, fds.interest] }
    }

    fn shown(shown: u8, dropped: Vec<PageId>) -> Shown {
        let timeline = TimelineHandle(1);
        let place = ShownTimeline { timeline, page: NUMBER, slot: 0, shown, reserved: Zero };
        Shown { news: 0, more: 0, reserved: Zero, pages: vec![], places: vec![place], dropped }
    }

    #[test]
    fn a_number_that_is_used_again_is_not_dropped_with_the_page_that_had_it() {
        let mut pages = Pages::default();
        pages.put(page());
        pages.show(&shown(1, vec![]));
        pages.show(&shown(0, vec![NUMBER]));
        pages.put(page());
        let old = [&pages.shown[0], &pages.shown[1]].map(|told| Arc::clone(&told.place.page));
        let new = pages.signalled(NUMBER).expect("the second");
        assert!(Arc::ptr_eq(&old[0], &old[1]) && !Arc::ptr_eq(&old[1], &new));
    }

    #[test]
    fn a_page_that_is_none_is_told_to_whoever_asks() {
        let mut pages = Pages::default();
        let (one, other) = vgem_os::seqpacket::Socket::pair().expect("a pair");
        let fds = [one.into(), other.into()];
        pages.put(ArrivedPage { kind: PageKind::Observed, number: NUMBER, fds });
        assert!(matches!(pages.observed(NUMBER), Err(Error::System(_))));
        assert!(matches!(pages.observed(PageId(4)), Err(Error::Protocol(_))));
    }
}
