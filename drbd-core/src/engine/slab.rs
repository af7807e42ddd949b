//! A table of fixed capacity with free-list: the engine's requests live in such tables and never on the heap one by
//! one, so that steady-state writes allocate nothing.

/// Values by small numbers. A number is reused only after its value was removed.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// Room for `capacity` values, taken at once.
    pub(super) fn new(capacity: usize) -> Slab<T> {
        let mut entries = Vec::with_capacity(capacity);
        entries.resize_with(capacity, || None);
        Slab { entries, free: (0..capacity as u32).rev().collect() }
    }

    /// How many more values fit.
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts a value in.
    ///
    /// # Panics
    /// If the table is full: callers look at [`Slab::room`] first.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let key = self.free.pop().expect("room in the table");
        self.entries[key as usize] = Some(value);
        key
    }

    /// Takes a value out.
    ///
    /// # Panics
    /// If there is none of that number.
    pub(super) fn remove(&mut self, key: u32) -> T {
        let value = self.entries[key as usize].take().expect("an entry of the table");
        self.free.push(key);
        value
    }

    /// The value of that number, if there is one.
    pub(super) fn find(&self, key: u32) -> Option<&T> {
        self.entries.get(key as usize)?.as_ref()
    }

    /// All values.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().flatten()
    }

    /// All values with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().enumerate().filter_map(|(k, v)| Some((k as u32, v.as_ref()?)))
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, key: u32) -> &T {
        self.entries[key as usize].as_ref().expect("an entry of the table")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, key: u32) -> &mut T {
        self.entries[key as usize].as_mut().expect("an entry of the table")
    }
}

#[cfg(test)]
mod tests;
