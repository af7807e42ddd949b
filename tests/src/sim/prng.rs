//! The only source of chance: xoshiro256++ seeded by splitmix64. One seed gives every dice of a run; each concern has
//! a stream of its own, so that taking one kind of fault away leaves the others as they were.

/// A stream of dice.
#[derive(Clone, Debug)]
pub(crate) struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream of that name under a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Prng {
        let mut x = seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut split = || {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Prng { state: [split(), split(), split(), split()] }
    }

    /// 64 even bits.
    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Even in `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a choice among nothing");
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// Even in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Short mostly, long rarely: even in `low..=mid`, one time in eight in `mid..=high`.
    pub(crate) fn skewed(&mut self, low: u64, mid: u64, high: u64) -> u64 {
        if self.chance(125) {
            self.between(mid, high)
        } else {
            self.between(low, mid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Prng;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream| {
            let mut prng = Prng::new(seed, stream);
            [prng.next(), prng.next(), prng.below(10)]
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }
}
