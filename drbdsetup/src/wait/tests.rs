use super::{rate, Obstacle};
use crate::rates::Progress;
use drbd_core::control::{PeerDeviceObject, ResyncObject};
use drbd_core::ids::{NodeId, VolumeNumber};
use drbd_core::states::{ConnectionState, DiskState, ReplicationState, ResyncSuspended};

fn syncing(left: u64, rate: u64) -> Option<Progress> {
    let (failed, same_csum, elapsed_ms, paused_ms, want) = (0, 0, 1000, 0, 0);
    let (marks, verify, total) = (None, None, 4 << 20);
    let resync =
        ResyncObject { total, left, failed, same_csum, elapsed_ms, paused_ms, rate, want, marks, verify };
    Progress::of(&PeerDeviceObject {
        peer_node_id: NodeId(1),
        conn_name: "bravo".to_owned(),
        volume: VolumeNumber(0),
        replication: ReplicationState::SyncTarget,
        peer_disk: DiskState::UpToDate,
        peer_client: false,
        resync_suspended: ResyncSuspended::default(),
        received: 0,
        sent: 0,
        out_of_sync: left,
        pending: 0,
        unacked: 0,
        resync: Some(resync),
        last_resync: None,
    })
}

#[test]
fn what_the_waiting_person_reads() {
    let says = |obstacle: &Obstacle| obstacle.sentence("r0");
    let state = ConnectionState::Connecting;
    let apart = Obstacle::NotConnected { peer: "bravo".to_owned(), state };
    assert_eq!(says(&apart), "r0: waiting for bravo (Connecting)");
    let (volume, state) = (VolumeNumber(0), ReplicationState::SyncTarget);
    let running = Obstacle::NotInSync { volume, state, progress: syncing(1 << 20, 40_960) };
    assert_eq!(says(&running), "r0/0: SyncTarget 75.0%, 40.0 MiB/s, 0:00:26 left");
    let slow = Obstacle::NotInSync { volume, state, progress: syncing(1 << 20, 100) };
    assert_eq!(says(&slow), "r0/0: SyncTarget 75.0%, 100 KiB/s, 2:54:46 left");
    let held = Obstacle::NotInSync { volume, state, progress: syncing(1 << 20, 0) };
    assert_eq!(says(&held), "r0/0: SyncTarget 75.0%, 0 KiB/s, stalled");
    let state = ReplicationState::WFBitMapT;
    assert_eq!(says(&Obstacle::NotInSync { volume, state, progress: None }), "r0/0: WFBitMapT");
}

#[test]
fn rates_are_readable() {
    assert_eq!(rate(0), "0 KiB/s");
    assert_eq!(rate(1023), "1023 KiB/s");
    assert_eq!(rate(1536), "1.5 MiB/s");
}
