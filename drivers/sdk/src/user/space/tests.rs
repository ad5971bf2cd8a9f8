//! The address space: claim by claim, and against a model that knows each address by itself.

use super::*;
use crate::testing::Random;

fn mapping(pages: usize) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(pages * 4096).expect("memory"))
}

fn addresses(address: u64, len: u64) -> VaRange {
    VaRange::new(address, len).expect("addresses")
}

fn range(address: u64, len: u64, mapping: &Arc<Mapping>) -> BoundRange {
    BoundRange {
        addresses: addresses(address, len),
        object: ObjectKey { index: 1, generation: 1 },
        offset: 0,
        access: Access::Write,
        foreign: false,
        mapping: Arc::clone(mapping),
    }
}

/// 0x1000 to 0x2000, and 0x3000 to 0x3100.
fn space() -> AddressSpace {
    let mapping = mapping(1);
    let mut space = AddressSpace::default();
    space.bind(range(0x3000, 0x100, &mapping)).expect("free");
    space.bind(range(0x1000, 0x1000, &mapping)).expect("free");
    space
}

fn fault(space: &AddressSpace, address: u64, len: u64, access: Access) -> Option<(u64, FaultReason)> {
    let reached = space.reach(addresses(address, len), access);
    reached.err().map(|fault| (fault.address, fault.reason))
}

#[test]
fn an_address_is_a_byte_of_the_object_that_is_bound_there() {
    let (mapping, mut space) = (mapping(1), AddressSpace::default());
    mapping.span_mut().expect("writable").copy_from(40, b"here").expect("inside");
    space.bind(BoundRange { offset: 32, ..range(0x7000_0000_1000, 64, &mapping) }).expect("free");
    let reached = space.reach(addresses(0x7000_0000_1008, 4), Access::Write).expect("bound").expect("bytes");
    let mut bytes = [0; 4];
    reached.read().expect("inside").copy_to(0, &mut bytes).expect("all of it");
    assert_eq!((reached.offset, &bytes), (40, b"here"));
    let holder = space.holder(addresses(0x7000_0000_1008, 4), Access::Write).expect("bound");
    assert_eq!(
        holder.read(40, 4).map(|bytes| bytes.as_ptr()),
        reached.read().ok().map(|bytes| bytes.as_ptr())
    );
    assert_eq!(holder.write(40, 4).map(|bytes| bytes.len()), Some(4));
}

// M-167
#[test]
fn the_first_address_that_cannot_be_reached_is_said_and_why() {
    let mut space = space();
    let (read, unbound) = (Access::Read, FaultReason::Unbound);
    assert_eq!(fault(&space, 0x1000, 0x1000, Access::Write), None);
    assert_eq!(fault(&space, 0xfff, 1, read), Some((0xfff, unbound)));
    assert_eq!(fault(&space, 0xfff, 2, read), Some((0xfff, unbound)));
    assert_eq!(fault(&space, 0x1fff, 2, read), Some((0x2000, unbound)));
    assert_eq!(fault(&space, 0x3100, 1, read), Some((0x3100, unbound)));
    assert_eq!(fault(&space, 1, u64::MAX - 1, read), Some((1, unbound)));
    assert_eq!(fault(&space, 0x1000, u64::MAX - 0x1000, read), Some((0x2000, unbound)));
    space.bind(BoundRange { access: Access::Read, ..range(0x1000, 0x1000, &mapping(1)) }).expect("the same");
    assert_eq!(fault(&space, 0x1800, 0x1000, Access::Write), Some((0x1800, FaultReason::ReadOnly)));
    assert_eq!(fault(&space, 0x1800, 0x800, read), None);
}

#[test]
fn ranges_that_touch_are_two() {
    let mut space = space();
    space.bind(range(0x2000, 0x1000, &mapping(1))).expect("it fits between");
    assert_eq!(fault(&space, 0x1ff0, 0x20, Access::Read), Some((0x2000, FaultReason::Unbound)));
    assert_eq!(fault(&space, 0x2ff0, 0x20, Access::Read), Some((0x3000, FaultReason::Unbound)));
}

#[test]
fn no_addresses_are_reached_anywhere() {
    assert!(space().reach(addresses(0x9999, 0), Access::Write).expect("no fault").is_none());
}

#[test]
fn what_cannot_be_bound_says_why_and_changes_nothing() {
    let (mut space, one) = (space(), mapping(1));
    let mut refused = |range| space.bind(range).expect_err("refused");
    assert_eq!(refused(range(0xfff, 2, &one)), NotBound::Overlaps { other: 0x1000 });
    assert_eq!(refused(range(0x1fff, 2, &one)), NotBound::Overlaps { other: 0x1000 });
    assert_eq!(refused(range(0x2001, 0x1000, &one)), NotBound::Overlaps { other: 0x3000 });
    assert_eq!(refused(range(0x4000, 0, &one)), NotBound::NoRange);
    assert_eq!(refused(range(0x4000, 4097, &one)), NotBound::Beyond { len: 4096 });
    let wraps = BoundRange { offset: u64::MAX, ..range(0x4000, 1, &one) };
    assert_eq!(refused(wraps), NotBound::Beyond { len: 4096 });
    // The one that is there would grow into the next.
    assert_eq!(refused(range(0x1000, 0x2001, &mapping(3))), NotBound::Overlaps { other: 0x3000 });
    assert_eq!(fault(&space, 0x1000, 0x1000, Access::Write), None);
    assert_eq!(fault(&space, 0x4000, 1, Access::Read), Some((0x4000, FaultReason::Unbound)));
}

#[test]
fn as_many_ranges_are_bound_as_a_ring_may_have_and_one_of_them_may_be_replaced() {
    let (one, mut space) = (mapping(1), AddressSpace::default());
    for at in 1..=limits::RING_BINDS as u64 {
        space.bind(range(at * 0x1000, 0x1000, &one)).expect("there is room");
    }
    assert_eq!(space.bind(range(1 << 40, 1, &one)), Err(NotBound::TooMany));
    assert_eq!(space.bind(range(0x1000, 16, &one)), Ok(()));
    assert_eq!(fault(&space, 0x1010, 1, Access::Read), Some((0x1010, FaultReason::Unbound)));
}

#[test]
fn a_mapping_is_held_as_long_as_it_is_bound() {
    let (one, mut space) = (mapping(1), AddressSpace::default());
    space.bind(range(0x1000, 16, &one)).expect("free");
    assert_eq!(Arc::strong_count(&one), 2);
    space.bind(range(0x1000, 16, &mapping(1))).expect("the same address");
    assert_eq!(Arc::strong_count(&one), 1);
    assert!(space.unbind(0x1000) && !space.unbind(0x1000));
}

/// How many addresses the model has.
const ADDRESSES: usize = 64;

/// What each address is: the number of its range, the byte of the object, whether it may be written.
struct Model {
    cells: [Option<(u64, u64, Access)>; ADDRESSES],
}

impl Model {
    fn overlaps(&self, address: usize, len: usize) -> bool {
        let own = address as u64;
        let cells = self.cells.get(address..address + len).expect("inside");
        cells.iter().flatten().any(|(range, ..)| *range != own)
    }

    fn unbind(&mut self, address: u64) -> bool {
        let before = self.cells;
        for cell in &mut self.cells {
            if cell.is_some_and(|(range, ..)| range == address) {
                *cell = None;
            }
        }
        before != self.cells
    }

    fn reach(&self, address: usize, len: usize, access: Access) -> Result<u64, (u64, FaultReason)> {
        let mut offset = None;
        for at in address..address + len {
            let (range, byte, may) = self.cells[at].ok_or((at as u64, FaultReason::Unbound))?;
            let (first_range, first) = *offset.get_or_insert((range, byte));
            if range != first_range {
                return Err((at as u64, FaultReason::Unbound));
            }
            if access == Access::Write && may == Access::Read {
                return Err((at as u64, FaultReason::ReadOnly));
            }
            assert_eq!(byte - first, (at - address) as u64);
        }
        Ok(offset.expect("some bytes").1)
    }
}

#[test]
fn whatever_is_bound_and_unbound_every_address_is_what_a_naive_model_says() {
    let (memory, mut random) = (mapping(1), Random::new(5));
    let access = |random: &mut Random| if random.below(2) == 0 { Access::Read } else { Access::Write };
    for _ in 0..200 {
        let (mut space, mut model) = (AddressSpace::default(), Model { cells: [None; ADDRESSES] });
        for _ in 0..60 {
            let address = 1 + random.below(ADDRESSES - 1);
            let len = 1 + random.below((ADDRESSES - address).min(16));
            let (offset, may) = (random.below(4096 - len) as u64, access(&mut random));
            match random.below(3) {
                0 => assert_eq!(space.unbind(address as u64), model.unbind(address as u64)),
                1 => {
                    let range =
                        BoundRange { offset, access: may, ..range(address as u64, len as u64, &memory) };
                    let overlaps = model.overlaps(address, len);
                    assert_eq!(space.bind(range).is_err(), overlaps, "{address} {len}");
                    if !overlaps {
                        model.unbind(address as u64);
                        for (at, cell) in model.cells.iter_mut().skip(address).take(len).enumerate() {
                            *cell = Some((address as u64, offset + at as u64, may));
                        }
                    }
                }
                _ => {
                    let wanted = addresses(address as u64, len as u64);
                    let holder = space.holder(wanted, may).map(|range| range.offset_of(address as u64));
                    assert_eq!(holder, model.reach(address, len, may).ok(), "{address} {len} {may:?}");
                    assert!(space.holder(addresses(address as u64, 0), may).is_none(), "of no bytes");
                    let reached = space.reach(wanted, may);
                    let reached = reached.map(|r| r.expect("some bytes").offset);
                    let reached = reached.map_err(|fault| (fault.address, fault.reason));
                    assert_eq!(reached, model.reach(address, len, may), "{address} {len} {may:?}");
                }
            }
        }
    }
}
