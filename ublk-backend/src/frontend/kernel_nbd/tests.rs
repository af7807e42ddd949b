use super::*;

/// The attributes of a connect request, as 6.12's driver reads them.
#[test]
#[cfg(target_endian = "little")]
fn connecting_has_the_drivers_form() {
    let golden: [&[u8]; 7] = [
        &[12, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
        &[12, 0, 5, 0, 0x6d, 1, 0, 0, 0, 0, 0, 0],
        &[12, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[12, 0, 8, 0, 60, 0, 0, 0, 0, 0, 0, 0],
        &[8, 0, 10, 0, b'r', b'/', b'0', 0],
        &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
    ];
    assert_eq!(connecting(9, "r/0", 0x16d).bytes(), golden.concat());
}

#[test]
#[cfg(target_endian = "little")]
fn a_new_size_names_the_device_and_its_owner() {
    let golden: [&[u8]; 4] = [
        &[8, 0, 1, 0, 3, 0, 0, 0],
        &[8, 0, 10, 0, b'r', b'/', b'0', 0],
        &[12, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[12, 0, 3, 0, 0, 16, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(sizing(NbdIndex(3), 1 << 32, 4096, "r/0").bytes(), golden.concat());
}
