//! Every bound in one place. A queue, table or loop without a bound here has none on purpose and says why.

/// Node ids are 0..NODES_MAX (DRBD_NODE_ID_MAX).
pub const NODES_MAX: usize = 32;
/// Volumes of one resource in this implementation.
pub const VOLUMES_MAX: usize = 64;
/// Bytes of device covered by one bit of a bitmap.
pub const BYTES_PER_BIT: u64 = 4096;
/// Sectors covered by one bit.
pub const SECTORS_PER_BIT: u64 = BYTES_PER_BIT / 512;
/// Bytes of device covered by one activity-log extent.
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Sectors in one activity-log extent.
pub const EXTENT_SECTORS: u64 = EXTENT_BYTES / 512;
/// Largest single request, upper or from a peer (DRBD_MAX_BIO_SIZE).
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Largest discard or write-zeroes request, upper or from a peer, with the long P_SIZES agreed.
pub const DISCARD_BYTES_MAX: u32 = 128 << 20;
/// Updates named by one activity-log transaction.
pub const TRANSACTION_UPDATES_MAX: usize = 64;
/// Slots described by the context of one activity-log transaction.
pub const TRANSACTION_CONTEXT: usize = 919;
/// Control packets, header included, never exceed this (1.4 of the wire reference).
pub const CONTROL_PACKET_MAX: usize = 4096;
/// Oldest and newest protocol of dialect 8.4.
pub const PROTOCOL_MIN: u32 = 86;
/// Newest protocol of dialect 8.4.
pub const PROTOCOL_MAX: u32 = 101;
/// Upper requests in flight per device.
pub const REQUESTS_MAX: usize = 4096;
/// Peer requests (writes, reads, resync reads) in flight per connection.
pub const PEER_REQUESTS_MAX: usize = 8192;
/// Epochs of a peer that are not yet stable, per connection.
pub const EPOCHS_MAX: usize = 65_536;
/// Longest shared secret or algorithm name, in bytes.
pub const SECRET_MAX: usize = 63;
/// Sectors of the largest device (1 PiB).
pub const DEVICE_SECTORS_MAX: u64 = 1 << 41;
