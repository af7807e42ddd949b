//! The engine's own random numbers (generation UUIDs, jitter): splitmix64 from the seed given at the start, so that
//! the same events give the same bytes. Secrets never come from here.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A fresh generation UUID: bit 0 clear, none of the special values.
    pub(super) fn uuid(&mut self) -> u64 {
        loop {
            let uuid = self.next() & !1;
            if uuid > crate::metadata::UUID_JUST_CREATED {
                return uuid;
            }
        }
    }
}
