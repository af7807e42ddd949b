//! The decision in words: DRBD's own log lines, and one sentence that says what was found and what can be done.

use super::{Action, Cause, FailReason, SyncInput};
use crate::engine::command::Level;
use crate::engine::generation::{Comparison, Strategy};
use crate::limits::BYTES_PER_BIT;
use crate::wire::uuid_flag;

/// What DRBD logs about a comparison.
pub(super) fn comparison_lines(input: &SyncInput<'_>, comparison: &Comparison) -> Vec<(Level, String)> {
    let own = input.own;
    let own_flags = if input.discard_my_data { uuid_flag::DISCARD_MY_DATA } else { 0 }
        | if input.context.crashed_primary { uuid_flag::CRASHED_PRIMARY } else { 0 };
    let line = |who: &str, set: [u64; 4], bits: u64, flags: u64| {
        let [current, bitmap, younger, older] = set;
        format!("{who} {current:016X}:{bitmap:016X}:{younger:016X}:{older:016X} bits:{bits} flags:{flags:X}")
    };
    let [younger, older] = own.wire_history();
    let peer = input.peer;
    let [peer_younger, peer_older] = peer.history;
    [
        "drbd_sync_handshake:".to_owned(),
        line("self", [own.current, own.bitmap, younger, older], input.announced_bits, own_flags),
        line("peer", [peer.current, peer.bitmap, peer_younger, peer_older], peer.bits, peer.flags),
        format!("uuid_compare()={} by rule {}", comparison.strategy.number(), comparison.rule),
    ]
    .map(|text| (Level::Info, text))
    .into()
}

/// What DRBD logs instead of a resync under `--tentative`.
pub(super) fn dry_run_line(action: Action) -> String {
    let would = |side: &str, full: bool| {
        let kind = if full { "full" } else { "bit-map based" };
        format!("dry-run connect: Would become {side}, doing a {kind} resync.")
    };
    match action {
        Action::Source { full } => would("SyncSource", full),
        Action::Target { full } => would("SyncTarget", full),
        Action::None | Action::Fail { .. } => {
            "dry-run connect: No resync, would become Connected immediately.".to_owned()
        }
    }
}

/// The decision, its reason, both sides' generations and, where people must act, the way out.
pub(super) fn sentence(
    input: &SyncInput<'_>,
    comparison: &Comparison,
    action: Action,
    cause: Cause,
) -> String {
    let Comparison { strategy, rule, .. } = *comparison;
    let mut text = headline(action, strategy, rule);
    text += ": ";
    text += &reason(input, comparison);
    text += match cause {
        Cause::Generations => "",
        Cause::DiskStates => "; but only one side's data is Inconsistent, so it follows the other",
        Cause::Policies => "; the after-sb policies decided whose changes go",
        Cause::DiscardMyData => "; --discard-my-data said whose changes go",
    };
    text += &format!(
        " (this node: {}; peer: {})",
        side(input.own.current, input.own.bitmap, input.announced_bits),
        side(input.peer.current, input.peer.bitmap, input.peer.bits),
    );
    if let Action::Fail { reason, .. } = action {
        text += "; ";
        text += &way_out(input, reason, strategy);
    }
    text
}

fn headline(action: Action, strategy: Strategy, rule: u16) -> String {
    let compared = format!("uuid_compare()={} by rule {rule}", strategy.number());
    let amount = |full| if full { "everything" } else { "what the bitmap names" };
    match action {
        Action::None => format!("No resync ({compared})"),
        Action::Source { full } => format!("Resync from this node of {} ({compared})", amount(full)),
        Action::Target { full } => format!("Resync from the peer of {} ({compared})", amount(full)),
        Action::Fail { reason, .. } => format!("{} ({compared})", failure(reason)),
    }
}

fn failure(reason: FailReason) -> &'static str {
    match reason {
        FailReason::Unrelated => "Unrelated data, aborting!",
        FailReason::NeedsProtocol => "The nodes cannot tell whose data is newer",
        FailReason::SplitBrain => "Split-Brain detected but unresolved, dropping connection!",
        FailReason::SourceInconsistent => "I shall become SyncSource, but I am inconsistent!",
        FailReason::TargetPrimary => "I shall become SyncTarget, but I am primary!",
        FailReason::Tentative => "Only a tentative connect",
    }
}

fn reason(input: &SyncInput<'_>, comparison: &Comparison) -> String {
    let own = format!("{:016X}", input.own.current);
    let peer = format!("{:016X}", input.peer.current);
    let source = matches!(comparison.strategy, Strategy::SourceBitmap | Strategy::SourceFull);
    match comparison.rule {
        10 => "both nodes have fresh metadata".to_owned(),
        20 => "this node's metadata is fresh, the peer has data".to_owned(),
        30 if comparison.strategy == Strategy::NeedsProtocol91 => {
            "a resync between the nodes was cut off".to_owned()
        }
        30 => "the peer's metadata is fresh, this node has data".to_owned(),
        34 => "the last resync from this node finished, but this node missed its end".to_owned(),
        35 => "the last resync from the peer finished, but the peer missed its end".to_owned(),
        36 => "the last resync from this node was not recorded by the peer".to_owned(),
        37 => "the last resync from the peer was not recorded by this node".to_owned(),
        40 if comparison.strategy == Strategy::NoSync => format!("both nodes have generation {own}"),
        40 => {
            let crashed = if source { "this node" } else { "the peer" };
            format!("both nodes have generation {own}, but a Primary crashed, and {crashed} leads")
        }
        41 => format!("both nodes have generation {own}, but a Primary crashed, and another is Primary now"),
        50 => format!("the peer was written since generation {own}, which this node has"),
        51 => "this node missed the beginning of the last resync from the peer".to_owned(),
        60 => format!("generation {own} of this node is the peer's past"),
        70 => format!("this node was written since generation {peer}, which the peer has"),
        71 => "the peer missed the beginning of the last resync from this node".to_owned(),
        80 => format!("generation {peer} of the peer is this node's past"),
        90 => format!("both nodes were written since generation {:016X}", input.own.bitmap),
        _ => ancestry(input, comparison.strategy),
    }
}

fn ancestry(input: &SyncInput<'_>, strategy: Strategy) -> String {
    if strategy == Strategy::Unrelated {
        return "the nodes have no generation in common".to_owned();
    }
    let plain = |generation: &u64| generation & !1;
    let theirs = input.peer.history.map(|g| plain(&g));
    let common = input.own.wire_history().iter().map(plain).find(|g| *g != 0 && theirs.contains(g));
    match common {
        Some(generation) => {
            format!("both nodes were written since generation {generation:016X}, and the bitmaps count from later")
        }
        None => "both nodes were written, and neither knows the other's generation".to_owned(),
    }
}

fn side(current: u64, bitmap: u64, bits: u64) -> String {
    let kib = bits.saturating_mul(BYTES_PER_BIT / 1024);
    format!("current {current:016X}, bitmap since {bitmap:016X}, {kib} KiB out of sync")
}

fn way_out(input: &SyncInput<'_>, reason: FailReason, strategy: Strategy) -> String {
    let resource = input.resource;
    match reason {
        FailReason::SplitBrain => format!(
            "run `drbdadm connect --discard-my-data {resource}` on the node whose changes may go, \
             and `drbdadm connect {resource}` on the other if it is StandAlone"
        ),
        FailReason::Unrelated => format!(
            "if these disks belong together, run `drbdadm down {resource}`, `drbdadm create-md {resource}` and \
             `drbdadm up {resource}` on the node whose data may go"
        ),
        FailReason::NeedsProtocol if strategy == Strategy::NeedsProtocol91 => {
            "upgrade the node that speaks less than protocol 91".to_owned()
        }
        FailReason::NeedsProtocol => {
            "upgrade the node that speaks less than protocol 101, or make the Primary Secondary and reconnect"
                .to_owned()
        }
        FailReason::SourceInconsistent => {
            format!("run `drbdadm primary --force {resource}` on the node whose data is to be kept")
        }
        FailReason::TargetPrimary => {
            format!("run `drbdadm secondary {resource}` here and connect again, or set rr-conflict")
        }
        FailReason::Tentative => format!("run `drbdadm connect {resource}` to do it"),
    }
}
