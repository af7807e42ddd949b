//! fencing: what becomes of a peer that is lost.

/// `fencing`, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum FencingPolicy {
    /// No fencing.
    #[default]
    DontCare,
    /// The fence-peer handler is called.
    ResourceOnly,
    /// And upper requests are held until it has answered.
    ResourceAndStonith,
}

impl FencingPolicy {
    /// The policy as the configuration spells it; anything unknown is `dont-care`.
    pub fn from_option(word: &str) -> FencingPolicy {
        match word {
            "resource-only" => FencingPolicy::ResourceOnly,
            "resource-and-stonith" => FencingPolicy::ResourceAndStonith,
            _ => FencingPolicy::DontCare,
        }
    }
}
