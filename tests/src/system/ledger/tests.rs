use super::*;

#[test]
fn a_block_is_recognised_by_its_bytes() {
    let mut bytes = [0; BLOCK_BYTES];
    assert_eq!(content(7, &bytes), Content::Zero);
    fill(7, 3, &mut bytes);
    assert_eq!(content(7, &bytes), Content::Version(3));
    assert_eq!(content(8, &bytes), Content::Foreign, "misplaced");
    let mut torn = bytes;
    fill(7, 4, &mut torn);
    torn[512..].copy_from_slice(&bytes[512..]);
    assert_eq!(content(7, &torn), Content::Foreign);
}

#[test]
fn only_the_last_acknowledged_version_or_a_later_one_will_do() {
    let block = Block { acknowledged: 2, sent: 4 };
    assert!(!block.may_hold(Content::Zero));
    assert!(!block.may_hold(Content::Version(1)));
    assert!((2..=4).all(|version| block.may_hold(Content::Version(version))));
    assert!(!block.may_hold(Content::Version(5)));
    assert!(!block.may_hold(Content::Foreign));
    assert!(Block { acknowledged: 0, sent: 1 }.may_hold(Content::Zero));
}
