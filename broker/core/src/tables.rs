//! Tables of live things, and the numbers that name them.
//!
//! A [`Table`] gives out keys of index and generation; a key whose thing is gone finds nothing, which is a normal
//! answer and no error of ours. Generations grow over the whole table, so no two things of one table ever had
//! the same generation (until 2^32 of them have lived): a timeline's generation doubles as its slot's.
//!
//! A [`HandleTable`] is one client's own: its numbers are small, never 0, and carry a generation too, so that a
//! handle that was closed is refused rather than mistaken. [`Numbers`] gives out page numbers, lowest first.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use vgem_proto::ids::{ClientKey, ObjectKey, TimelineKey};

/// A key of a [`Table`].
pub(crate) trait Key: Copy {
    fn new(index: u32, generation: u32) -> Self;
    fn index(self) -> usize;
    fn generation(self) -> u32;
}

macro_rules! table_key {
    ($($key:ty),*) => {$(
        impl Key for $key {
            fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
            fn index(self) -> usize {
                self.index as usize
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }
    )*};
}
table_key!(ObjectKey, TimelineKey, ClientKey);

/// Live things by key.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    rows: Vec<Row<V>>,
    free: Vec<u32>,
    generation: u32,
    /// The index of the first row.
    base: u32,
    key: PhantomData<K>,
}

#[derive(Debug)]
struct Row<V> {
    generation: u32,
    value: Option<V>,
}

impl<K: Key, V> Table<K, V> {
    pub(crate) fn new() -> Self {
        Self::from_index(0)
    }

    /// A table whose keys begin at this index, so that they are no keys of another one.
    pub(crate) fn from_index(base: u32) -> Self {
        Self { rows: Vec::new(), free: Vec::new(), generation: 0, base, key: PhantomData }
    }

    #[inline]
    fn place(&self, key: K) -> usize {
        // Below the base it is a key of another table: there is no such row.
        key.index().wrapping_sub(self.base as usize)
    }

    /// Takes a thing in; `make` learns its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(K) -> V) -> K {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let generation = self.generation;
        if let Some(index) = self.free.pop() {
            let key = K::new(self.base + index, generation);
            if let Some(row) = self.rows.get_mut(index as usize) {
                *row = Row { generation, value: Some(make(key)) };
                return key;
            }
        }
        let index = u32::try_from(self.rows.len()).expect("quotas keep every table far below 2^32 rows");
        let key = K::new(self.base + index, generation);
        self.rows.push(Row { generation, value: Some(make(key)) });
        key
    }

    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        let row = self.rows.get(self.place(key))?;
        if row.generation == key.generation() { row.value.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let place = self.place(key);
        let row = self.rows.get_mut(place)?;
        if row.generation == key.generation() { row.value.as_mut() } else { None }
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let place = self.place(key);
        let row = self.rows.get_mut(place)?;
        if row.generation != key.generation() {
            return None;
        }
        let value = row.value.take()?;
        self.free.push(u32::try_from(place).expect("the place is of a row, and rows are counted in u32"));
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.iter_from(0)
    }

    /// The live things from row `first` on.
    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = (K, &V)> {
        (0u32..).zip(&self.rows).skip(first).filter_map(move |(index, row)| {
            row.value.as_ref().map(|value| (K::new(self.base + index, row.generation), value))
        })
    }
}

/// One client's numbers for things.
#[derive(Debug)]
pub(crate) struct HandleTable<V> {
    rows: Vec<HandleRow<V>>,
    free: Vec<u32>,
    /// The index of the first row.
    base: u32,
}

#[derive(Debug)]
struct HandleRow<V> {
    generation: u32,
    value: Option<V>,
}

const INDEX_BITS: u32 = 20;
const GENERATIONS: u32 = 1 << (u32::BITS - INDEX_BITS);

impl<V> HandleTable<V> {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), base: 0 }
    }

    /// A table whose numbers are none of a table that [`Self::new`] made.
    pub(crate) fn apart() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), base: 1 << (INDEX_BITS - 1) }
    }

    /// Most things one table can name.
    pub(crate) const ROWS: usize = 1 << (INDEX_BITS - 1);

    fn place(&self, number: u32) -> (usize, u32) {
        let index = (number & ((1 << INDEX_BITS) - 1)) as usize;
        (index.wrapping_sub(self.base as usize), number >> INDEX_BITS)
    }

    /// Whether one more fits.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// Whether `count` more fit.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        Self::ROWS - self.len() >= count
    }

    /// Takes a thing in and gives its number, never 0. [`Self::has_room`] must hold.
    pub(crate) fn insert(&mut self, value: V) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(HandleRow { generation: 0, value: None });
            u32::try_from(self.rows.len() - 1).expect("the caller asked has_room")
        });
        let row =
            self.rows.get_mut(index as usize).expect("the index is of a free row or of the one just made");
        row.generation = if row.generation + 1 == GENERATIONS { 1 } else { row.generation + 1 };
        row.value = Some(value);
        (row.generation << INDEX_BITS) | (self.base + index)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&V> {
        let (index, generation) = self.place(number);
        let row = self.rows.get(index)?;
        if row.generation == generation { row.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut V> {
        let (index, generation) = self.place(number);
        let row = self.rows.get_mut(index)?;
        if row.generation == generation { row.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<V> {
        let (index, generation) = self.place(number);
        let row = self.rows.get_mut(index)?;
        if row.generation != generation {
            return None;
        }
        let value = row.value.take()?;
        self.free.push(u32::try_from(index).expect("the index was taken out of a u32"));
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.rows.iter().filter_map(|row| row.value.as_ref())
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> Vec<V> {
        let values = self.rows.iter_mut().filter_map(|row| row.value.take()).collect();
        self.rows.clear();
        self.free.clear();
        values
    }
}

/// Small numbers, the lowest free one first.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    next: u32,
    free: BTreeSet<u32>,
}

impl Numbers {
    pub(crate) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = Table::<ObjectKey, u8>::new();
        let old = table.insert_with(|_| 1);
        table.remove(old);
        let new = table.insert_with(|_| 2);
        assert_eq!((old.index, table.get(old), table.get(new)), (new.index, None, Some(&2)));
    }

    #[test]
    fn no_two_timelines_ever_have_one_generation() {
        let mut table = Table::<TimelineKey, ()>::new();
        let first = table.insert_with(|_| ());
        let second = table.insert_with(|_| ());
        table.remove(first);
        let third = table.insert_with(|_| ());
        assert_eq!([first, second, third].map(|key| key.generation), [1, 2, 3]);
    }

    #[test]
    fn a_closed_handle_is_not_the_one_that_takes_its_place() {
        let mut table = HandleTable::new();
        let old = table.insert('a');
        table.remove(old);
        let new = table.insert('b');
        assert_eq!((table.get(old), table.get(new)), (None, Some(&'b')));
    }

    #[test]
    fn no_handle_is_zero_even_after_every_generation() {
        let mut table = HandleTable::new();
        for _ in 0..2 * GENERATIONS {
            let number = table.insert(());
            assert_ne!(number, 0);
            table.remove(number);
        }
    }

    #[test]
    fn keys_and_handles_of_tables_that_are_apart_find_nothing_in_each_other() {
        let (mut low, mut high) =
            (Table::<TimelineKey, u8>::new(), Table::<TimelineKey, u8>::from_index(1 << 31));
        let (first, second) = (low.insert_with(|_| 1), high.insert_with(|_| 2));
        assert_eq!((low.get(second), high.get(first), high.get(second)), (None, None, Some(&2)));
        let (mut near, mut far) = (HandleTable::new(), HandleTable::apart());
        let (first, second) = (near.insert('a'), far.insert('b'));
        assert_eq!((near.get(second), far.get(first), far.get(second)), (None, None, Some(&'b')));
    }

    #[test]
    fn the_lowest_number_is_used_again() {
        let mut numbers = Numbers::default();
        let taken = [numbers.take(), numbers.take(), numbers.take()];
        numbers.give_back(1);
        assert_eq!((taken, numbers.take(), numbers.take()), ([0, 1, 2], 1, 3));
    }
}
