//! read-balancing: who answers a read that both nodes could answer.

/// Stripes by their size in sectors, as a power of two.
const STRIPES: [(&str, u32); 6] = [
    ("32K-striping", 6),
    ("64K-striping", 7),
    ("128K-striping", 8),
    ("256K-striping", 9),
    ("512K-striping", 10),
    ("1M-striping", 11),
];

/// Who answers reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadBalancing {
    /// This node.
    #[default]
    PreferLocal,
    /// The peer.
    PreferRemote,
    /// Both in turn.
    RoundRobin,
    /// Who has less to do.
    LeastPending,
    /// The peer while the local disk is congested.
    WhenCongestedRemote,
    /// Both by place: every second stripe is the peer's.
    Striping {
        /// Sectors of a stripe are two to the power of this.
        shift: u32,
    },
}

impl ReadBalancing {
    /// The policy an option names.
    pub fn from_option(name: &str) -> ReadBalancing {
        match name {
            "prefer-remote" => ReadBalancing::PreferRemote,
            "round-robin" => ReadBalancing::RoundRobin,
            "least-pending" => ReadBalancing::LeastPending,
            "when-congested-remote" => ReadBalancing::WhenCongestedRemote,
            other => match STRIPES.iter().find(|(name, _)| *name == other) {
                Some(&(_, shift)) => ReadBalancing::Striping { shift },
                None => ReadBalancing::PreferLocal,
            },
        }
    }
}
