//! The three tables of DRBD 8.4, row by row, and the mirror.

use super::*;
use crate::engine::decision_vectors::{role, table, Record};

fn policy(word: &str) -> SplitBrainPolicy {
    SplitBrainPolicy::from_option(match word {
        "call-pri-lost" => "call-pri-lost-after-sb",
        "violently" => "violently-as0p",
        other => other,
    })
}

fn recovery(number: i32) -> Recovery {
    match number {
        1 => Recovery::Source,
        -1 => Recovery::Target,
        _ => Recovery::Undecided,
    }
}

/// Own and peer bits by the name of their relation.
const CHANGES: [(&str, u64, u64); 6] =
    [("both0", 0, 0), ("peer0", 7, 0), ("self0", 0, 7), ("less", 3, 7), ("more", 7, 3), ("equal", 5, 5)];

fn matches(record: &Record, column: &str, value: &str) -> bool {
    ["*", value].contains(&record.text(column))
}

fn flag(value: bool) -> &'static str {
    if value {
        "1"
    } else {
        "0"
    }
}

fn facts(role: Role, peer_role: Role) -> SplitBrainFacts {
    SplitBrainFacts {
        role,
        peer_role,
        was_primary_first: false,
        peer_was_primary_first: false,
        bits: 0,
        peer_bits: 0,
        resolve_conflicts: false,
    }
}

/// A 0pri policy that decides as wanted.
fn deciding(hg0: Recovery) -> SplitBrainPolicy {
    match hg0 {
        Recovery::Source => SplitBrainPolicy::DiscardRemote,
        Recovery::Target => SplitBrainPolicy::DiscardLocal,
        Recovery::Undecided => SplitBrainPolicy::Disconnect,
    }
}

#[test]
fn nobody_primary_as_84() {
    let rows = table("asb0");
    for policy_wanted in SplitBrainPolicy::ALL {
        for (changes, bits, peer_bits) in CHANGES {
            for n in 0..8 {
                let (first, peer_first, rc) = (n & 1 != 0, n & 2 != 0, n & 4 != 0);
                let row = rows.iter().find(|row| {
                    policy(row.text("policy")) == policy_wanted
                        && matches(row, "b0_self", flag(first))
                        && matches(row, "b0_peer", flag(peer_first))
                        && matches(row, "changes", changes)
                        && matches(row, "rc", flag(rc))
                });
                let row = row.expect("the table is total");
                let facts = SplitBrainFacts {
                    was_primary_first: first,
                    peer_was_primary_first: peer_first,
                    bits,
                    peer_bits,
                    resolve_conflicts: rc,
                    ..facts(Role::Secondary, Role::Secondary)
                };
                let policies = SplitBrainPolicies { nobody_primary: policy_wanted, ..Default::default() };
                let recovered = recover(&policies, &facts);
                assert_eq!(recovered.recovery, recovery(row.number("result")), "{} {facts:?}", row.line);
                assert_eq!(recovered.misconfigured, row.text("log") == "conferr", "{} {facts:?}", row.line);
                assert_eq!(
                    recovered.by_least_changes,
                    row.text("log") == "leastwarn",
                    "{} {facts:?}",
                    row.line
                );
            }
        }
    }
}

#[test]
fn some_primary_as_84() {
    for (name, peer_role) in [("asb1", Role::Secondary), ("asb1", Role::Primary), ("asb2", Role::Primary)] {
        let rows = table(name);
        let own_role = if name == "asb1" && peer_role == Role::Primary { 'S' } else { 'P' };
        for policy_wanted in SplitBrainPolicy::ALL {
            for hg0 in [1, -1, -100] {
                let row = rows.iter().find(|row| {
                    (row.text("policy") == "*" || policy(row.text("policy")) == policy_wanted)
                        && (name == "asb2" || matches(row, "own_role", &own_role.to_string()))
                        && matches(row, "hg0", &hg0.to_string())
                });
                let row = row.expect("the table is total");
                let policies = SplitBrainPolicies {
                    nobody_primary: deciding(recovery(hg0)),
                    one_primary: policy_wanted,
                    both_primary: policy_wanted,
                };
                let recovered = recover(&policies, &facts(role(own_role), peer_role));
                let case = format!("{name} {own_role} {hg0}: {}", row.line);
                assert_eq!(recovered.recovery, recovery(row.number("result")), "{case}");
                assert_eq!(recovered.call_primary_lost, row.text("handler") != "-", "{case}");
            }
        }
    }
}

#[test]
fn both_sides_recover_mirrored() {
    for (zero, one) in SplitBrainPolicy::ALL.into_iter().flat_map(|z| SplitBrainPolicy::ALL.map(|o| (z, o))) {
        for (_, bits, peer_bits) in CHANGES {
            for n in 0..32 {
                let bit = |k: u32| n >> k & 1 != 0;
                let role = |primary| if primary { Role::Primary } else { Role::Secondary };
                let here = SplitBrainFacts {
                    role: role(bit(0)),
                    peer_role: role(bit(1)),
                    was_primary_first: bit(2),
                    peer_was_primary_first: bit(3),
                    bits,
                    peer_bits,
                    resolve_conflicts: bit(4),
                };
                let there = SplitBrainFacts {
                    role: here.peer_role,
                    peer_role: here.role,
                    was_primary_first: here.peer_was_primary_first,
                    peer_was_primary_first: here.was_primary_first,
                    bits: peer_bits,
                    peer_bits: bits,
                    resolve_conflicts: !here.resolve_conflicts,
                };
                let policies =
                    SplitBrainPolicies { nobody_primary: zero, one_primary: one, both_primary: one };
                let mirrored = SplitBrainPolicies {
                    nobody_primary: zero.mirrored(),
                    one_primary: one.mirrored(),
                    both_primary: one.mirrored(),
                };
                let (here_ends, there_ends) = (recover(&policies, &here), recover(&mirrored, &there));
                if here_ends.call_primary_lost || there_ends.call_primary_lost {
                    // The one that lost ends the connection; the other one takes it for decided until then.
                    assert_ne!(here_ends.call_primary_lost, there_ends.call_primary_lost);
                    continue;
                }
                let expected = match there_ends.recovery {
                    Recovery::Source => Recovery::Target,
                    Recovery::Target => Recovery::Source,
                    Recovery::Undecided => Recovery::Undecided,
                };
                assert_eq!(here_ends.recovery, expected, "{policies:?} {here:?}");
            }
        }
    }
}

#[test]
fn policies_are_spelled_as_configured() {
    for policy in SplitBrainPolicy::ALL {
        assert_eq!(SplitBrainPolicy::from_option(policy.name()), policy);
        assert_eq!(SplitBrainPolicy::from_number(policy.number()), Some(policy));
    }
    let numbers = ["disconnect", "consensus", "violently-as0p"].map(|word| policy(word).number());
    assert_eq!(numbers, [0, 7, 10], "as P_PROTOCOL counts them");
    assert_eq!(SplitBrainPolicy::from_number(11), None);
    assert_eq!(SplitBrainPolicy::from_option("nonsense"), SplitBrainPolicy::Disconnect);
}
