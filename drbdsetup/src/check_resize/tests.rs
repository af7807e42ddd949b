use super::remembered;

#[test]
fn the_uuid_survives_for_the_same_device() {
    assert_eq!(remembered("", 4096, "/dev/a"), "4096\t/dev/a\n");
    let before = "2048\t/dev/a\nuuid:\t0123456789ABCDEF\n";
    assert_eq!(remembered(before, 4096, "/dev/a"), "4096\t/dev/a\nuuid:\t0123456789ABCDEF\n");
    assert_eq!(remembered(before, 4096, "/dev/b"), "4096\t/dev/b\n");
    assert_eq!(remembered("nonsense", 4096, "/dev/b"), "4096\t/dev/b\n");
}
