//! The ledger objects where it should, and only there.

use super::{Ledger, Promise, BEGINNING};

/// Two disks of 8 sectors.
fn look(disks: &[[u64; 8]; 2]) -> impl Fn(usize, u64) -> u64 + '_ {
    |node, sector| disks[node][sector as usize]
}

fn acknowledged(ledger: &mut Ledger, disks: &mut [[u64; 8]; 2], must: u8) -> Result<u32, String> {
    let number = ledger.begin(0, 0, 1, false);
    for (node, disk) in disks.iter_mut().enumerate() {
        if must >> node & 1 == 1 {
            disk[0] = u64::from(number) + 1;
            ledger.written(node, 0, 1, &|_| u64::from(number) + 1, false)?;
        }
    }
    ledger.acknowledge(number, must, 0, Promise::Kept, &look(disks))?;
    Ok(number)
}

#[test]
fn an_acknowledgement_without_the_peers_copy_is_objected_to() {
    let mut ledger = Ledger::new(8, 2);
    let number = ledger.begin(0, 0, 1, false);
    let disks = [[1; 8], [BEGINNING; 8]];
    assert!(ledger.acknowledge(number, 0b11, 0, Promise::Kept, &look(&disks)).is_err());
}

#[test]
fn an_acknowledged_write_may_not_be_overwritten_with_older_data() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    assert!(ledger.written(1, 0, 1, &|_| 1, false).is_err());
    assert!(ledger.written(0, 0, 1, &|_| BEGINNING, false).is_err());
}

#[test]
fn a_stale_read_is_objected_to() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    let begun = ledger.now();
    assert!(ledger.read(0, 0b01, 0, 1, begun).is_ok());
    assert!(ledger.read(0, 0b01, 0, BEGINNING, begun).is_err());
    assert!(ledger.read(0, 0b01, 0, 77, begun).is_err());
}

#[test]
fn a_promotion_without_what_was_acknowledged_alone_is_a_divergence() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b01).expect("on its own disk");
    ledger.promoted(1, false, false, &look(&disks)).expect("no hole");
    assert!(ledger.diverged);
}

#[test]
fn a_promotion_excuses_only_what_it_left_behind() {
    for there_too in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        let number = ledger.begin(0, 0, 2, false);
        for disk in disks.iter_mut().take(1 + usize::from(there_too)) {
            disk[0] = 1;
        }
        disks[0][1] = 1;
        ledger.acknowledge(number, 0b01, 0, Promise::Weak, &look(&disks)).expect("on its own disk");
        ledger.promoted(1, false, false, &look(&disks)).expect("no hole");
        assert!(ledger.diverged);
        assert_eq!(ledger.written(0, 0, 1, &|_| BEGINNING, false).is_err(), there_too);
    }
}

#[test]
fn a_write_under_zeroes_may_be_lost_like_any_other() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[0; 8]; 2]);
    let first = ledger.begin(0, 0, 1, true);
    ledger.acknowledge(first, 0b11, 0, Promise::Kept, &look(&disks)).expect("on both disks");
    let write = ledger.begin(0, 0, 1, false);
    ledger.begin(0, 0, 1, true);
    disks[1][0] = u64::from(write) + 1;
    ledger
        .acknowledge(write, 0b11, 0, Promise::Kept, &look(&disks))
        .expect("node 0 has zeroes, newer ones perhaps");
    disks[0][0] = BEGINNING;
    ledger.lost_power(0, true, 0, &look(&disks));
    ledger.promoted(0, true, false, &look(&disks)).expect("it came back with what it had stable");
    assert!(!ledger.diverged);
}

#[test]
fn an_inconsistent_copy_alone_counts_only_for_what_was_flushed() {
    for flushed in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
        if flushed {
            let begun = ledger.now();
            ledger.flushed(0, false, begun, 0b11, &look(&disks)).expect("stable");
        }
        disks[0][0] = BEGINNING;
        ledger.lost_power(0, false, 0b10, &look(&disks));
        assert_eq!(ledger.written(1, 0, 1, &|_| BEGINNING, true).is_err(), flushed);
    }
}

#[test]
fn a_read_through_the_peer_is_the_peers_data() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    disks[0][0] = BEGINNING;
    ledger.lost_power(0, true, 0, &look(&disks));
    let begun = ledger.now();
    assert!(ledger.read(1, 0b01, 0, BEGINNING, begun).is_ok(), "what node 0 came back with");
    assert!(ledger.read(0, 0b10, 0, BEGINNING, begun).is_err(), "node 1 has it");
}

#[test]
fn what_a_primary_writes_beside_one_promoted_apart_may_be_lost_under_a_only() {
    for (promise, may) in [(Promise::Outrun, true), (Promise::Weak, false), (Promise::Kept, false)] {
        let mut ledger = Ledger::new(8, 2);
        ledger.diverged = true;
        let number = ledger.begin(0, 0, 1, false);
        let disks = [[u64::from(number) + 1; 8], [BEGINNING; 8]];
        ledger.acknowledge(number, 0b01, 0, promise, &look(&disks)).expect("on its own disk");
        assert_eq!(ledger.written(0, 0, 1, &|_| BEGINNING, false).is_ok(), may, "{promise:?}");
    }
}

#[test]
fn a_write_lost_by_a_primary_must_survive_the_promotion_of_the_other() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    disks[0][0] = BEGINNING;
    ledger.lost_power(0, true, 0, &look(&disks));
    ledger.promoted(1, true, false, &look(&disks)).expect("nothing is missing");
    ledger.promotion_answered(1);
    assert!(ledger.written(1, 0, 1, &|_| BEGINNING, false).is_err());
    assert!(!ledger.diverged);
}

#[test]
fn a_write_of_the_same_time_tells_nothing_of_one_that_was_never_there() {
    for there in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        let old = acknowledged(&mut ledger, &mut disks, 0b01).expect("on its own disk");
        let beside = u64::from(ledger.begin(1, 0, 1, false)) + 1;
        let new = ledger.begin(0, 0, 1, false);
        let content = u64::from(new) + 1;
        for node in if there { 0..2 } else { 0..1 } {
            ledger.written(node, 0, 1, &|_| content, false).expect("newer");
        }
        ledger.written(1, 0, 1, &|_| beside, false).expect("at the same time");
        disks = [[content; 8], [beside; 8]];
        ledger.acknowledge(new, 0b01, 0, Promise::Kept, &look(&disks)).expect("on its own disk");
        let late = ledger.written(1, 0, 1, &|_| u64::from(old) + 1, false);
        assert_eq!(late.is_ok(), !there, "{late:?}");
    }
}

#[test]
fn what_a_primary_lost_may_stay_lost_though_the_other_acknowledges_it_after_that() {
    for promoted in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        let number = ledger.begin(1, 0, 1, false);
        let content = u64::from(number) + 1;
        for node in 0..2 {
            ledger.written(node, 0, 1, &|_| content, false).expect("newer");
        }
        disks[1][0] = content;
        ledger.lost_power(0, true, 0, &look(&disks));
        if promoted {
            ledger.promotion_answered(1);
        }
        ledger.acknowledge(number, 0b11, 0, Promise::Kept, &look(&disks)).expect("node 0 had it");
        assert_eq!(ledger.written(1, 0, 1, &|_| BEGINNING, true).is_ok(), !promoted);
    }
}

#[test]
fn a_flush_does_not_make_stable_what_a_primary_lost() {
    for primary in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
        disks[0][0] = BEGINNING;
        ledger.lost_power(0, primary, 0, &look(&disks));
        let over = u64::from(ledger.begin(0, 0, 1, false)) + 1;
        ledger.written(0, 0, 1, &|_| over, false).expect("newer");
        let begun = ledger.now();
        let flushed = ledger.flushed(1, false, begun, 0b01, &|_, _| BEGINNING);
        assert_eq!(flushed.is_ok(), primary, "{flushed:?}");
    }
}

#[test]
fn only_a_write_sent_again_may_be_overwritten_by_what_was_sent_again_before_it() {
    for again in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
        let newer = ledger.begin(0, 0, 1, false);
        for (node, disk) in disks.iter_mut().enumerate() {
            disk[0] = u64::from(newer) + 1;
            ledger.written(node, 0, 1, &|_| u64::from(newer) + 1, false).expect("newer");
        }
        if again {
            ledger.sent_again(newer, 1);
        }
        ledger.acknowledge(newer, 0b01, 0b10, Promise::Kept, &look(&disks)).expect("received");
        assert_eq!(ledger.written(1, 0, 1, &|_| 1, false).is_ok(), again);
        if again {
            disks[1][0] = 1;
            ledger.promoted(1, true, false, &look(&disks)).expect_err("it is still to be written");
            ledger.written(1, 0, 1, &|_| u64::from(newer) + 1, false).expect("newer");
            assert!(ledger.written(1, 0, 1, &|_| 1, false).is_err());
        }
    }
}

#[test]
fn what_a_session_left_to_be_written_comes_before_the_same_sent_again() {
    let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
    acknowledged(&mut ledger, &mut disks, 0b11).expect("on both disks");
    let newer = ledger.begin(0, 0, 1, false);
    let content = u64::from(newer) + 1;
    disks[0][0] = content;
    ledger.written(0, 0, 1, &|_| content, false).expect("newer");
    ledger.sent_again(newer, 1);
    ledger.acknowledge(newer, 0b01, 0b10, Promise::Kept, &look(&disks)).expect("received, twice");
    for older_is_excused in [true, false] {
        ledger.written(1, 0, 1, &|_| content, false).expect("newer");
        assert_eq!(ledger.written(1, 0, 1, &|_| 1, false).is_ok(), older_is_excused);
    }
}

#[test]
fn a_side_without_changes_of_its_own_gives_up_what_the_other_lost_only() {
    for lost in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        acknowledged(&mut ledger, &mut disks, if lost { 0b11 } else { 0b10 }).expect("where it is claimed");
        if lost {
            disks[0][0] = BEGINNING;
            ledger.lost_power(0, true, 0, &look(&disks));
        }
        ledger.promoted(0, true, false, &look(&disks)).expect("no hole");
        ledger.promoted(1, true, true, &look(&disks)).expect("nothing is missing");
        ledger.promotion_answered(1);
        ledger.discard_unchanged(1);
        assert_eq!(ledger.written(1, 0, 1, &|_| BEGINNING, true).is_ok(), lost);
    }
}

#[test]
fn what_is_mirrored_from_a_side_that_was_given_up_makes_no_hole() {
    for given_up in [false, true] {
        let (mut ledger, mut disks) = (Ledger::new(8, 2), [[BEGINNING; 8]; 2]);
        acknowledged(&mut ledger, &mut disks, 0b10).expect("written apart");
        if given_up {
            ledger.discard(1);
        }
        let later = ledger.begin(1, 1, 1, false);
        let content = u64::from(later) + 1;
        for (node, disk) in disks.iter_mut().enumerate() {
            disk[1] = content;
            ledger.written(node, 1, 1, &|_| content, false).expect("newer");
        }
        ledger.acknowledge(later, 0b01, 0, Promise::Kept, &look(&disks)).expect("on both disks");
        assert_eq!(ledger.promoted(0, true, false, &look(&disks)).is_ok(), given_up);
        assert!(ledger.diverged);
    }
}

#[test]
fn a_write_that_the_good_disk_lost_before_it_was_acknowledged_may_go() {
    for own_is_good in [false, true] {
        let mut ledger = Ledger::new(8, 2);
        let number = ledger.begin(1, 0, 1, false);
        let mut disks = [[BEGINNING; 8]; 2];
        disks[1][0] = u64::from(number) + 1;
        ledger.written(1, 0, 1, &|_| u64::from(number) + 1, true).expect("newer");
        ledger.lost_power(0, false, 0b10, &look(&disks));
        let must = if own_is_good { 0b11 } else { 0b01 };
        ledger.acknowledge(number, must, 0, Promise::Kept, &look(&disks)).expect("it was on its way");
        assert_eq!(ledger.written(1, 0, 1, &|_| BEGINNING, true).is_ok(), !own_is_good);
    }
}
