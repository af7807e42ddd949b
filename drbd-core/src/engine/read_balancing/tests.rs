use super::*;
use crate::config::OptionSpec;

const IDLE: Load = Load { local: 0, remote: 0 };

fn peer(policy: &str, sector: u64, load: Load) -> bool {
    goes_to_peer(ReadBalancing::from_option(policy), Sector(sector), load, &mut true)
}

#[test]
fn every_name_of_the_option_is_a_policy_of_its_own() {
    let spec = OptionSpec::find("read-balancing").expect("an option");
    let crate::config::options::Kind::Word { values, .. } = &spec.kind else { panic!("it has names") };
    let mut seen: Vec<ReadBalancing> = values.iter().map(|name| ReadBalancing::from_option(name)).collect();
    assert_eq!(seen[0], ReadBalancing::PreferLocal);
    assert_eq!(seen.len(), 11);
    seen.dedup();
    assert_eq!(seen.len(), 11);
}

#[test]
fn preferences() {
    for load in [IDLE, Load { local: 500, remote: 0 }, Load { local: 0, remote: 500 }] {
        assert!(!peer("prefer-local", 8, load));
        assert!(peer("prefer-remote", 8, load));
    }
}

#[test]
fn round_robin_changes_with_every_read() {
    let mut turn = false;
    let asked: Vec<bool> =
        (0..6).map(|n| goes_to_peer(ReadBalancing::RoundRobin, Sector(n), IDLE, &mut turn)).collect();
    assert_eq!(asked, [false, true, false, true, false, true]);
}

#[test]
fn least_pending_stays_here_if_both_have_as_much_to_do() {
    assert!(!peer("least-pending", 0, IDLE));
    assert!(!peer("least-pending", 0, Load { local: 7, remote: 7 }));
    assert!(peer("least-pending", 0, Load { local: 8, remote: 7 }));
    assert!(!peer("least-pending", 0, Load { local: 7, remote: 8 }));
}

#[test]
fn a_congested_disk_is_spared() {
    assert!(!peer("when-congested-remote", 0, Load { local: CONGESTED - 1, remote: 0 }));
    assert!(peer("when-congested-remote", 0, Load { local: CONGESTED, remote: 4000 }));
}

#[test]
fn stripes_are_as_large_as_they_are_called() {
    for (name, kib) in [
        ("32K-striping", 32),
        ("64K-striping", 64),
        ("128K-striping", 128),
        ("256K-striping", 256),
        ("512K-striping", 512),
        ("1M-striping", 1024),
    ] {
        let sectors = kib * 2;
        assert!(!peer(name, 0, IDLE) && !peer(name, sectors - 1, IDLE), "{name}");
        assert!(peer(name, sectors, IDLE) && peer(name, 2 * sectors - 1, IDLE), "{name}");
        assert!(!peer(name, 2 * sectors, IDLE), "{name}");
    }
}
