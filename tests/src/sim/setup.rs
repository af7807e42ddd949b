//! What a seed makes of the world before anything happens: devices, metadata, options, dialects.

use super::changes::Theme;
use super::clock::{NodeClock, SECOND};
use super::prng::Prng;
use drbd_core::config::{DiskOptions, NetOptions, OptionSet, PeerDeviceOptions};
use drbd_core::ids::{Minor, Sector};
use drbd_core::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use drbd_core::metadata::Format;
use drbd_core::states::Protocol;

/// One node of the world.
#[derive(Clone, Debug)]
pub(crate) struct NodeSetup {
    /// Format of its metadata.
    pub(crate) format: Format,
    /// Bitmap slots of v09.
    pub(crate) max_peers: u32,
    /// Metadata on a disk of its own.
    pub(crate) external: bool,
    /// Highest protocol version it offers.
    pub(crate) protocol_max: u32,
    /// Its clock.
    pub(crate) clock: NodeClock,
    /// Disks with a battery, and options that say so.
    pub(crate) write_through: bool,
    /// Where writes tear, in sectors.
    pub(crate) tears_at: u64,
    /// Usual time of a disk operation.
    pub(crate) disk_latency: u64,
    /// What its disks discard in, in bytes; 0: they give no space back.
    pub(crate) discard_granularity: u32,
    /// Options of its disks.
    pub(crate) disk: DiskOptions,
}

/// The world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Its nodes.
    pub(crate) nodes: Vec<NodeSetup>,
    /// Sizes of the volumes.
    pub(crate) volumes: Vec<Sector>,
    /// Options of the connection, the same on both sides.
    pub(crate) net: NetOptions,
    /// Options of the peer devices.
    pub(crate) peer_device: PeerDeviceOptions,
    /// The nodes begin in sync, as if set-gi had been used.
    pub(crate) born_in_sync: bool,
    /// Front-end requests outstanding at most.
    pub(crate) depth: u64,
    /// Requests asked at once at most.
    pub(crate) burst: u64,
    /// Usual time between two bursts.
    pub(crate) request_gap: u64,
    /// When faults end.
    pub(crate) heal_at: u64,
    /// on-no-data-accessible suspend-io.
    pub(crate) suspend_without_data: bool,
    /// on-suspended-primary-outdated force-secondary.
    pub(crate) outdated_gives_way: bool,
    /// What a seed of another kind is about.
    pub(crate) themes: Vec<Theme>,
    /// By volume: whose resync comes first.
    pub(crate) resync_after: Vec<Option<Minor>>,
    /// So much larger may the disks of a volume become.
    pub(crate) room_bytes: u64,
    /// What they become larger by is alike on both nodes, and need not be copied.
    pub(crate) grows_clean: bool,
}

impl Setup {
    /// The world of a seed.
    pub(crate) fn draw(dice: &mut Prng) -> Setup {
        let protocol = dice.pick(&[Protocol::A, Protocol::B, Protocol::C, Protocol::C, Protocol::C]);
        let volumes = if dice.chance(200) { 2 } else { 1 };
        let mut net = NetOptions::from(&OptionSet::default());
        net.protocol = protocol;
        net.max_epoch_size = dice.pick(&[1, 4, 20, 2048]);
        net.compress_bitmap = dice.chance(700);
        net.ko_count = dice.pick(&[0, 2, 7]);
        net.timeout_ds = dice.pick(&[10, 60]);
        net.ping_int_s = dice.pick(&[1, 10]);
        net.connect_int_s = dice.pick(&[1, 3, 10]);
        if dice.chance(300) {
            net.cram_hmac_alg = "sha1".to_owned();
            net.shared_secret = "secret".to_owned();
        }
        let mut peer_device = PeerDeviceOptions::from(&OptionSet::default());
        peer_device.resync_rate = dice.pick(&[10_000, 400_000]);
        peer_device.c_plan_ahead_ds = dice.pick(&[0, 20]);
        peer_device.c_max_rate = dice.pick(&[None, Some(102_400)]);
        let heal_at = dice.between(3, 20) * SECOND;
        let depth = dice.pick(&[1, 8, 32]);
        let burst = dice.pick(&[1, depth, depth]);
        let requests = dice.between(100, 900);
        let nodes: Vec<NodeSetup> = (0..2).map(|_| NodeSetup::draw(dice)).collect();
        // Older dialects know one volume only.
        let volumes = if nodes.iter().all(|n| n.protocol_max >= 100) { volumes } else { 1 };
        Setup {
            nodes,
            volumes: (0..volumes)
                .map(|_| Sector(dice.pick(&[16_384, 24_576 + 8, 40_960, 65_536 + 3])))
                .collect(),
            net,
            peer_device,
            born_in_sync: dice.chance(500),
            depth,
            burst,
            request_gap: heal_at * burst / requests,
            heal_at,
            suspend_without_data: false,
            outdated_gives_way: false,
            themes: Vec::new(),
            resync_after: Vec::new(),
            room_bytes: 0,
            grows_clean: false,
        }
    }
}

impl NodeSetup {
    fn draw(dice: &mut Prng) -> NodeSetup {
        let write_through = dice.chance(100);
        let mut disk = DiskOptions::from(&OptionSet::default());
        disk.al_extents = dice.pick(&[4, 6, 67]);
        disk.on_io_error = dice.pick(&["detach", "detach", "pass_on"]).to_owned();
        disk.disk_flushes = !(write_through && dice.chance(500));
        disk.md_flushes = !(write_through && dice.chance(500));
        let old = dice.chance(250);
        NodeSetup {
            format: dice.pick(&[Format::V08, Format::V09]),
            max_peers: dice.pick(&[1, 2, 7]),
            external: dice.chance(300),
            protocol_max: if old {
                dice.between(u64::from(PROTOCOL_MIN), u64::from(PROTOCOL_MAX)) as u32
            } else {
                PROTOCOL_MAX
            },
            clock: NodeClock {
                start: dice.between(1, 1_000) * SECOND,
                per_mille: dice.pick(&[1000, 1000, 995, 1010]),
            },
            write_through,
            tears_at: dice.pick(&[1, 8]),
            disk_latency: dice.pick(&[50_000, 300_000, 3_000_000]),
            discard_granularity: 0,
            disk,
        }
    }
}
