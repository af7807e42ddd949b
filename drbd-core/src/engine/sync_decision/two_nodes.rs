//! Two nodes that meet with any pasts that can arise.

use super::tests::{ordinary, reverse};
use super::{decide, Action, Decision, SyncInput};
use crate::engine::generation::{CompareContext, GenerationSet};
use crate::wire::{uuid_flag, Uuids};
use proptest::prelude::{any, prop, prop_assert_eq, prop_oneof, proptest, Strategy};

/// What can happen to two copies between two meetings.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Write { first: bool, as_primary: bool },
    Crash { first: bool },
    Forget { first: bool },
    Resync { cut_after: u8 },
}

struct Node {
    set: GenerationSet,
    crashed: bool,
}

impl Node {
    fn announced(&self) -> Uuids {
        let [younger, older] = self.set.wire_history();
        let flags = if self.crashed { uuid_flag::CRASHED_PRIMARY } else { 0 };
        Uuids {
            current: self.set.current,
            bitmap: self.set.bitmap,
            history: [younger, older],
            bits: 0,
            flags,
        }
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = any::<bool>();
    prop_oneof![
        4 => (node, any::<bool>()).prop_map(|(first, as_primary)| Happening::Write { first, as_primary }),
        1 => node.prop_map(|first| Happening::Crash { first }),
        1 => node.prop_map(|first| Happening::Forget { first }),
        6 => (0u8..5).prop_map(|cut_after| Happening::Resync { cut_after }),
    ]
}

fn meet(nodes: &[Node; 2], resolve_first: bool) -> [Decision; 2] {
    [0, 1].map(|n| {
        let (own, peer) = (&nodes[n], nodes[1 - n].announced());
        let context = CompareContext {
            crashed_primary: own.crashed,
            resolve_conflicts: (n == 0) == resolve_first,
            ..ordinary().context
        };
        decide(&SyncInput { own: &own.set, peer: &peer, context, ..ordinary() })
    })
}

/// Source and target, if there is to be a resync.
fn sync(nodes: &mut [Node; 2], decisions: &[Decision; 2], cut_after: u8, random: u64) {
    let mut announced = [nodes[0].announced(), nodes[1].announced()];
    for n in 0..2 {
        if let Some(repair) = decisions[n].comparison.repair {
            repair.apply(&mut nodes[n].set, &mut announced[1 - n]);
        }
    }
    let source = match (decisions[0].action, decisions[1].action) {
        (Action::Source { .. }, Action::Target { .. }) => 0,
        (Action::Target { .. }, Action::Source { .. }) => 1,
        _ => return,
    };
    let target = 1 - source;
    let mut name = 0;
    for step in 0..cut_after {
        match step {
            0 => name = nodes[source].set.begin_resync_as_source(random),
            1 => nodes[target].set.begin_resync_as_target(name, false),
            2 => nodes[target].set.finish_resync_as_target(&announced[source], false),
            _ => nodes[source].set.finish_resync_as_source(),
        }
    }
    if cut_after == 4 {
        nodes.iter_mut().for_each(|node| node.crashed = false);
    }
}

proptest! {
    #[test]
    fn agree_whatever_happened(happenings in prop::collection::vec(happening(), 1..12), resolve in any::<bool>()) {
        let fresh = || Node { set: GenerationSet::JUST_CREATED, crashed: false };
        let mut nodes = [fresh(), fresh()];
        for (n, what) in happenings.iter().enumerate() {
            let random = (n as u64 + 1) << 8;
            match *what {
                Happening::Write { first, as_primary } => {
                    let node = &mut nodes[usize::from(!first)];
                    node.set.mark_role(as_primary);
                    if node.set.bitmap == 0 {
                        node.set.begin_new(random, true);
                    }
                }
                Happening::Crash { first } => nodes[usize::from(!first)].crashed = true,
                Happening::Forget { first } => nodes[usize::from(!first)] = fresh(),
                Happening::Resync { cut_after } => {
                    let decisions = meet(&nodes, resolve);
                    sync(&mut nodes, &decisions, cut_after, random);
                }
            }
            let [here, there] = meet(&nodes, resolve);
            prop_assert_eq!(here.action, reverse(there.action), "{}\n{}", here.sentence, there.sentence);
        }
    }
}
