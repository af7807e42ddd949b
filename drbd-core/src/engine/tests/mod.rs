//! Two engines on a perfect shell: what happens from a command line to the last packet, step by step.
//!
//! [`lab::Lab`] is the world, [`node::Node`] one machine of it; the ordering contract of
//! [`command`](super::command) is checked with every command.

mod balanced_reads;
mod chaos;
mod congestion;
mod connecting;
mod copying;
mod data_integrity;
mod dialects;
mod disk_trouble;
mod disks;
mod forged;
mod forged_places;
mod freeze;
mod freezing_chaos;
mod good_data;
mod hand_over;
mod lab;
mod late_metadata;
mod mutated;
mod node;
mod old_peers;
mod parting;
mod resize;
mod resize_crash;
mod resync;
mod resync_order;
mod roles;
mod scenario;
mod split_brain;
mod thin_resync;
mod two_primaries;
mod verifying;
mod volumes;
mod writes;
