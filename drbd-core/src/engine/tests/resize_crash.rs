//! A loss of power at every single write of metadata while a device changes its size: on either node, the write torn or
//! not, what the disk had in its cache lost or not. Whatever is found afterwards is the old size or the new one, every
//! block that was marked is marked, what was acknowledged is there, and a second attempt ends well.

use super::lab::Lab;
use super::node::{net, Node, Pending, SECTORS};
use super::resize::request;
use crate::engine::planted::Bug;
use crate::engine::{IoResult, MetaOp};
use crate::metadata::{Format, Index, BLOCK_BYTES};
use crate::states::Role;

const BLOCKS: u64 = SECTORS / 8;
/// Differs between the nodes, and both have it marked.
const MARKED: u64 = 4321;

/// How the node is configured and what its administrator asks.
#[derive(Clone, Copy, Debug)]
struct Case {
    format: Format,
    index: Index,
    more_bytes: u64,
    /// Sectors asked for.
    size: u64,
    /// Who loses its power, and whether it is Primary; the Primary's administrator asks.
    victim: usize,
    primary: usize,
    /// Put in on purpose, on both nodes.
    bug: Option<Bug>,
}

/// What becomes of the write under way, and of those before it that are not stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Lost,
    Done,
    /// Only its first sector, or all but that.
    Torn {
        first: bool,
    },
}

const FATES: [Fate; 4] = [Fate::Lost, Fate::Done, Fate::Torn { first: true }, Fate::Torn { first: false }];

/// Both in sync but for one block that both know of, with an extent in the log.
fn prepared(case: &Case) -> Lab {
    let mut nodes = [Node::new(0, case.format, 100), Node::new(1, case.format, 200)];
    for node in &mut nodes {
        node.create_metadata(case.format, case.index);
        if !case.index.is_internal() {
            node.device_bytes = vec![SECTORS * 512];
        }
    }
    let pairs = [("connect-int", "1"), ("ping-int", "1")];
    let mut lab = Lab::of(nodes, [net(&pairs), net(&pairs)]);
    lab.skip_first_sync();
    lab.primary(case.primary, false).expect("its data is UpToDate");
    lab.write(case.primary, 7, 70);
    lab.pass_ms(200);
    for n in 0..2 {
        lab.nodes[n].disk.insert(MARKED, 900 + n as u32);
        let slot = lab.nodes[n].engine.peer_slot(0).expect("a peer");
        let backing = lab.nodes[n].engine.devices[0].backing.as_deref_mut().expect("a disk");
        backing.bitmap.set_bits(slot, MARKED, MARKED + 1);
    }
    // The bits are kept, as with any change of state.
    for n in 0..2 {
        let mut out = Vec::new();
        let job = crate::engine::meta_jobs::Job::everything(None);
        lab.nodes[n].engine.meta_job(0, job, &mut out);
        lab.carry_out_all(n, out);
        lab.run();
    }
    for node in &mut lab.nodes {
        let bytes = node.bytes_now().data;
        node.grow_device(bytes + case.more_bytes);
        if let Some(bug) = case.bug {
            node.engine.plant(bug);
        }
        // What lies in the new part has its own past.
        let litter = 1000 + u32::from(node.engine.node_id.0);
        let blocks = (case.more_bytes / 4096).min(4);
        node.disk.extend((BLOCKS..BLOCKS + blocks).map(|block| (block, litter)));
    }
    lab
}

fn tear(node: &mut Node, op: &Pending, first: bool) {
    let Pending::Meta(io, bytes) = op else { return };
    if io.op == MetaOp::Flush {
        return;
    }
    let mut block = node.meta.get(&io.offset_bytes).cloned().unwrap_or_else(|| Box::new([0xa5; BLOCK_BYTES]));
    let part = if first { 0..512 } else { 512..BLOCK_BYTES };
    block[part.clone()].copy_from_slice(&bytes[part]);
    node.meta.insert(io.offset_bytes, block);
}

/// Runs until that many writes of metadata are done, then takes the victim's power. `None` if there were fewer; false if
/// it makes no difference what became of the cache.
fn crash_at(lab: &mut Lab, case: &Case, writes: usize, fate: Fate, keep_cache: bool) -> Option<bool> {
    let n = case.victim;
    lab.hold(n, |op| matches!(op, Pending::Meta(..)));
    lab.begin(case.primary, request(case.size, false, false));
    for _ in 0..writes {
        if lab.nodes[n].pending.is_empty() {
            return None;
        }
        lab.let_one_go(n, IoResult::Done);
    }
    // What comes after is the copy of the new part, as after any change.
    let over = lab.nodes.iter().all(|node| node.engine.devices[0].resize.is_none());
    if over || lab.nodes[n].pending.is_empty() {
        return None;
    }
    let pending = std::mem::take(&mut lab.nodes[n].pending);
    let node = &mut lab.nodes[n];
    if !keep_cache {
        if node.unstable.is_empty() {
            return Some(false);
        }
        for (at, before) in std::mem::take(&mut node.unstable).into_iter().rev() {
            match before {
                Some(block) => node.meta.insert(at, block),
                None => node.meta.remove(&at),
            };
        }
    }
    match fate {
        Fate::Lost => {}
        Fate::Done => lab.carry_out_unanswered(n, &pending[0]),
        Fate::Torn { first } => tear(&mut lab.nodes[n], &pending[0], first),
    }
    Some(true)
}

fn run(case: &Case, writes: usize, fate: Fate, keep_cache: bool) -> bool {
    let mut lab = prepared(case);
    let before = lab.nodes[case.victim].engine.devices[0].size.0;
    match crash_at(&mut lab, case, writes, fate, keep_cache) {
        None => return false,
        Some(false) => return true,
        Some(true) => {}
    }
    let n = case.victim;
    let was_primary = lab.role(n) == Role::Primary;
    lab.crash(n);
    let found = lab.nodes[n].found().map(|(super_block, _)| super_block.effective_size);
    lab.attach(n).expect("a disk with metadata");
    let size = lab.nodes[n].engine.devices[0].size.0;
    assert_eq!(Some(size), found);
    assert!(size >= before.min(case.size.max(1)), "{size} of {before}");
    let alike = lab.nodes[0].disk[&MARKED] == lab.nodes[1].disk[&MARKED];
    assert!(alike || lab.out_of_sync(n).contains(&MARKED), "the marked block is forgotten");
    lab.begin_connect(n);
    if was_primary {
        lab.primary(n, false).expect("its data is UpToDate");
    }
    if case.size == 0 {
        lab.wait("in sync", Lab::is_in_sync);
        lab.ask(case.primary, request(0, false, false)).expect("once more");
    } else {
        shrink_apart(&mut lab, case);
    }
    lab.wait("in sync", Lab::is_in_sync);
    let [a, b] = [0, 1].map(|n| lab.nodes[n].engine.devices[0].size.0);
    let wanted = if case.size == 0 { lab.nodes[0].place().capacity.0 } else { case.size };
    assert_eq!((a, b), (wanted, wanted));
    assert_eq!(lab.nodes.each_ref().map(|node| node.disk[&7]), [70, 70]);
    lab.check_alike();
    true
}

/// Who was not told does not let a smaller peer in: each is told by itself, as with 8.4.
fn shrink_apart(lab: &mut Lab, case: &Case) {
    lab.pass_ms(3000);
    for n in 0..2 {
        lab.disconnect(n).expect("allowed");
        lab.ask(n, request(case.size, false, false)).expect("once more");
    }
    lab.connect();
}

/// Every write, every fate. Returns how many writes there were.
fn enumerate_case(case: &Case) -> usize {
    let mut writes = 0;
    loop {
        let mut went_on = false;
        for fate in FATES {
            for keep_cache in [true, false] {
                let outcome = std::panic::catch_unwind(|| run(case, writes, fate, keep_cache));
                let reached = outcome.unwrap_or_else(|_| {
                    panic!("{case:?}, after {writes} writes, {fate:?}, cache kept: {keep_cache}")
                });
                went_on |= reached;
            }
        }
        if !went_on {
            return writes;
        }
        writes += 1;
    }
}

fn enumerate(format: Format, index: Index, more_bytes: u64, size: u64, least: usize) {
    for (victim, primary) in [(0, 0), (1, 0)] {
        let case = Case { format, index, more_bytes, size, victim, primary, bug: None };
        let writes = enumerate_case(&case);
        assert!(writes >= least, "{case:?}: {writes} writes of metadata only");
    }
}

/// All of the new metadata lies behind the old.
#[test]
fn growing_with_metadata_that_moves_away() {
    enumerate(Format::V09, Index::Internal, 1 << 20, 0, 12);
}

/// The new metadata is written over part of the old.
#[test]
fn growing_so_little_that_metadata_moves_over_itself() {
    for more_bytes in [4096, 20 << 10] {
        enumerate(Format::V09, Index::Internal, more_bytes, 0, 12);
    }
    enumerate(Format::V08, Index::Internal, 36 << 10, 0, 12);
}

#[test]
fn growing_with_external_metadata() {
    enumerate(Format::V08, Index::FlexExternal, 1 << 20, 0, 2);
}

#[test]
fn shrinking() {
    enumerate(Format::V09, Index::Internal, 0, SECTORS / 2, 1);
}

/// Bugs put in on purpose, where this build has them: the enumeration finds each.
#[test]
fn deliberate_bugs_are_found() {
    for (bug, more_bytes) in
        [(Bug::MovedWithoutInterim, 4096), (Bug::SizeBeforeBits, 1 << 20), (Bug::NewPartNotMarked, 1 << 20)]
    {
        if !Node::new(0, Format::V09, 0).engine.plant(bug) {
            return;
        }
        let case = Case {
            format: Format::V09,
            index: Index::Internal,
            more_bytes,
            size: 0,
            victim: 0,
            primary: 0,
            bug: Some(bug),
        };
        assert!(std::panic::catch_unwind(|| enumerate_case(&case)).is_err(), "{bug:?} was not found");
    }
}
