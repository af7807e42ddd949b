//! What an administrator can say: the option table, and typed options for the engine.

mod fencing;
pub mod options;
mod read_balancing;

pub use fencing::FencingPolicy;
pub use options::{OptionError, OptionSet, OptionSpec, OptionValue, Section};
pub use read_balancing::ReadBalancing;

use crate::ids::Minor;
use crate::states::Protocol;

/// Resource options the engine acts on (`options { }`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceOptions {
    /// on-no-data-accessible: suspend instead of failing.
    pub suspend_without_data: bool,
    /// on-suspended-primary-outdated force-secondary: a frozen Primary gives way to newer data.
    pub outdated_gives_way: bool,
    /// auto-promote.
    pub auto_promote: bool,
}

impl From<&OptionSet> for ResourceOptions {
    fn from(set: &OptionSet) -> ResourceOptions {
        ResourceOptions {
            suspend_without_data: set.text("on-no-data-accessible") == "suspend-io",
            outdated_gives_way: set.text("on-suspended-primary-outdated") == "force-secondary",
            auto_promote: set.boolean("auto-promote"),
        }
    }
}

/// Connection options the engine acts on (`net { }`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetOptions {
    /// When an upper write is complete.
    pub protocol: Protocol,
    /// 0.1 s.
    pub timeout_ds: u64,
    /// Writes in one epoch.
    pub max_epoch_size: u32,
    /// Seconds between attempts.
    pub connect_int_s: u64,
    /// Seconds.
    pub ping_int_s: u64,
    /// 0.1 s.
    pub ping_timeout_ds: u64,
    /// 0 = never give up.
    pub ko_count: u32,
    /// 0.1 s; 0 = ping-timeout.
    pub socket_check_timeout_ds: u64,
    /// allow-two-primaries.
    pub two_primaries: bool,
    /// Digest name, empty for none.
    pub cram_hmac_alg: String,
    /// Secret for cram-hmac-alg.
    pub shared_secret: String,
    /// Digest name, empty for none.
    pub data_integrity_alg: String,
    /// Digest name, empty for none.
    pub verify_alg: String,
    /// Digest name, empty for none.
    pub csums_alg: String,
    /// csums-after-crash-only.
    pub csums_after_crash_only: bool,
    /// after-sb-0pri.
    pub after_sb_0pri: String,
    /// after-sb-1pri.
    pub after_sb_1pri: String,
    /// after-sb-2pri.
    pub after_sb_2pri: String,
    /// always-asbp.
    pub always_asbp: bool,
    /// rr-conflict.
    pub rr_conflict: String,
    /// fencing.
    pub fencing: FencingPolicy,
    /// use-rle.
    pub compress_bitmap: bool,
    /// max-buffers, in 4 KiB pages.
    pub max_buffers: u32,
    /// on-congestion.
    pub on_congestion: OnCongestion,
    /// congestion-fill: sectors mirrored and not yet stable, 0 = does not count.
    pub congestion_fill: u64,
    /// congestion-extents: extents of the activity log in use.
    pub congestion_extents: u32,
    /// Bytes, 0 = the system's own tuning.
    pub sndbuf_size: u32,
    /// Bytes, 0 = the system's own tuning.
    pub rcvbuf_size: u32,
    /// Name of the peer, set by drbdadm.
    pub name: String,
}

impl From<&OptionSet> for NetOptions {
    fn from(set: &OptionSet) -> NetOptions {
        NetOptions {
            protocol: match set.text("protocol") {
                "A" => Protocol::A,
                "B" => Protocol::B,
                _ => Protocol::C,
            },
            timeout_ds: set.unsigned("timeout"),
            max_epoch_size: set.unsigned("max-epoch-size") as u32,
            connect_int_s: set.unsigned("connect-int"),
            ping_int_s: set.unsigned("ping-int"),
            ping_timeout_ds: set.unsigned("ping-timeout"),
            ko_count: set.unsigned("ko-count") as u32,
            socket_check_timeout_ds: set.unsigned("socket-check-timeout"),
            two_primaries: set.boolean("allow-two-primaries"),
            cram_hmac_alg: set.text("cram-hmac-alg").to_owned(),
            shared_secret: set.text("shared-secret").to_owned(),
            data_integrity_alg: set.text("data-integrity-alg").to_owned(),
            verify_alg: set.text("verify-alg").to_owned(),
            csums_alg: set.text("csums-alg").to_owned(),
            csums_after_crash_only: set.boolean("csums-after-crash-only"),
            after_sb_0pri: set.text("after-sb-0pri").to_owned(),
            after_sb_1pri: set.text("after-sb-1pri").to_owned(),
            after_sb_2pri: set.text("after-sb-2pri").to_owned(),
            always_asbp: set.boolean("always-asbp"),
            rr_conflict: set.text("rr-conflict").to_owned(),
            fencing: FencingPolicy::from_option(set.text("fencing")),
            compress_bitmap: set.boolean("use-rle"),
            max_buffers: set.unsigned("max-buffers") as u32,
            on_congestion: match set.text("on-congestion") {
                "pull-ahead" => OnCongestion::PullAhead,
                "disconnect" => OnCongestion::Disconnect,
                _ => OnCongestion::Block,
            },
            congestion_fill: set.unsigned("congestion-fill"),
            congestion_extents: set.unsigned("congestion-extents") as u32,
            sndbuf_size: set.unsigned("sndbuf-size") as u32,
            rcvbuf_size: set.unsigned("rcvbuf-size") as u32,
            name: set.text("_name").to_owned(),
        }
    }
}

/// What a Primary does when the link cannot follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnCongestion {
    /// It waits.
    Block,
    /// It goes on alone, marks what it writes, and lets the peer catch up later.
    PullAhead,
    /// It lets the peer go.
    Disconnect,
}

/// Options of a backing disk the engine acts on (`disk { }`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// Sectors, 0 = all there is.
    pub size_sectors: u64,
    /// on-io-error: pass_on, call-local-io-error or detach.
    pub on_io_error: String,
    /// disk-timeout in 0.1 s, 0 = never.
    pub disk_timeout_ds: u64,
    /// disk-flushes.
    pub disk_flushes: bool,
    /// disk-barrier.
    pub disk_barrier: bool,
    /// disk-drain.
    pub disk_drain: bool,
    /// md-flushes.
    pub md_flushes: bool,
    /// The volume whose resync goes first, by its minor.
    pub resync_after: Option<Minor>,
    /// Extents the activity log keeps hot.
    pub al_extents: u32,
    /// al-updates.
    pub al_updates: bool,
    /// read-balancing.
    pub read_balancing: ReadBalancing,
    /// rs-discard-granularity in bytes; 0 = what the disk says of itself.
    pub rs_discard_granularity: u32,
    /// discard-zeroes-if-aligned.
    pub discard_zeroes_if_aligned: bool,
}

impl From<&OptionSet> for DiskOptions {
    fn from(set: &OptionSet) -> DiskOptions {
        DiskOptions {
            size_sectors: set.unsigned("size"),
            on_io_error: set.text("on-io-error").to_owned(),
            disk_timeout_ds: set.unsigned("disk-timeout"),
            disk_flushes: set.boolean("disk-flushes"),
            disk_barrier: set.boolean("disk-barrier"),
            disk_drain: set.boolean("disk-drain"),
            md_flushes: set.boolean("md-flushes"),
            resync_after: match set.value("resync-after") {
                OptionValue::Number(minor) => u32::try_from(minor).ok().map(Minor),
                OptionValue::Boolean(_) | OptionValue::Text(_) => None,
            },
            al_extents: set.unsigned("al-extents") as u32,
            al_updates: set.boolean("al-updates"),
            read_balancing: ReadBalancing::from_option(set.text("read-balancing")),
            rs_discard_granularity: set.unsigned("rs-discard-granularity") as u32,
            discard_zeroes_if_aligned: set.boolean("discard-zeroes-if-aligned"),
        }
    }
}

/// Options of a volume towards one peer the engine acts on (`disk { }`, peer-device options).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerDeviceOptions {
    /// KiB/s.
    pub resync_rate: u32,
    /// 0.1 s, 0 = no controller.
    pub c_plan_ahead_ds: u32,
    /// 0.1 s; `None` if not configured.
    pub c_delay_target_ds: Option<u32>,
    /// Sectors; 0 = steer by c-delay-target; `None` if not configured.
    pub c_fill_target_sectors: Option<u32>,
    /// KiB/s; `None` if not configured, which means no cap.
    pub c_max_rate: Option<u32>,
    /// KiB/s.
    pub c_min_rate: u32,
}

impl From<&OptionSet> for PeerDeviceOptions {
    fn from(set: &OptionSet) -> PeerDeviceOptions {
        let configured = |name| set.is_set(name).then(|| set.unsigned(name) as u32);
        PeerDeviceOptions {
            resync_rate: set.unsigned("resync-rate") as u32,
            c_plan_ahead_ds: set.unsigned("c-plan-ahead") as u32,
            c_delay_target_ds: configured("c-delay-target"),
            c_fill_target_sectors: configured("c-fill-target"),
            c_max_rate: configured("c-max-rate"),
            c_min_rate: set.unsigned("c-min-rate") as u32,
        }
    }
}

/// Options of a device the engine acts on (`disk { }`, device options).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOptions {
    /// Diskless on purpose.
    pub diskless: bool,
    /// Bytes.
    pub max_bio_size: u32,
}

impl From<&OptionSet> for DeviceOptions {
    fn from(set: &OptionSet) -> DeviceOptions {
        DeviceOptions { diskless: set.boolean("diskless"), max_bio_size: set.unsigned("max-bio-size") as u32 }
    }
}
