//! One test per sentence of the rule.

use super::*;

fn size(own_max: u64, peer_max: u64, last_agreed: u64, asked: u64) -> DeviceSize {
    device_size(&SizeInput { own_max, peer_max, last_agreed, asked, ..SizeInput::default() })
}

#[test]
fn both_known_the_smaller_counts() {
    assert_eq!(size(100, 80, 0, 0).sectors, 80);
    assert_eq!(size(80, 100, 50, 0).sectors, 80, "the agreed size does not hold a device back");
}

#[test]
fn without_the_peer_the_agreed_size_stays() {
    assert_eq!(size(100, 0, 80, 0).sectors, 80);
    assert_eq!(size(60, 0, 80, 0).sectors, 60, "but not beyond the disk");
    assert_eq!(size(0, 60, 80, 0).sectors, 60);
    assert_eq!(size(0, 0, 80, 0).sectors, 80);
}

#[test]
fn never_agreed_what_is_known_counts() {
    assert_eq!(size(100, 0, 0, 0).sectors, 100);
    assert_eq!(size(0, 70, 0, 0).sectors, 70);
    assert_eq!(size(0, 0, 0, 0).sectors, 0);
}

#[test]
fn the_user_may_ask_for_less() {
    assert_eq!(size(100, 80, 0, 40), DeviceSize { sectors: 40, asked_too_much: false });
    assert_eq!(size(100, 80, 0, 80), DeviceSize { sectors: 80, asked_too_much: false });
    assert_eq!(size(100, 80, 0, 90), DeviceSize { sectors: 80, asked_too_much: true });
}

#[test]
fn the_peer_may_be_assumed_to_have_grown_unless_it_can_say() {
    let input =
        SizeInput { own_max: 100, last_agreed: 50, assume_peer_has_space: true, ..SizeInput::default() };
    assert_eq!(device_size(&input).sectors, 100);
    let connected = SizeInput { connected: true, peer_max: 60, ..input };
    assert_eq!(device_size(&connected).sectors, 60);
}

#[test]
fn the_peer_is_asked_the_same_and_agrees() {
    for (own, peer, asked) in [(100, 80, 0), (100, 80, 30), (64, 64, 64), (10, 20, 15)] {
        assert_eq!(size(own, peer, 0, asked), size(peer, own, 0, asked));
    }
}

#[test]
fn unknown_is_not_small() {
    assert_eq!(smaller_known(0, 5), 5);
    assert_eq!(smaller_known(5, 0), 5);
    assert_eq!(smaller_known(7, 5), 5);
    assert_eq!(smaller_known(0, 0), 0);
}
