//! A Primary's daemon that died under a block device in use: the new one takes the role up again if it may, before the
//! requests that wait in the device go on.
//!
//! Whether it may is the engine's to say, as of any promotion: with the peer Secondary and both in touch; without the
//! peer as a Primary that lost it (fencing and a new generation); never beside a Primary, nor with outdated data.

use crate::administration::Administration;
use drbd_core::control::Request;
use drbd_core::engine::Level;
use drbd_core::refusal::Reason;
use drbd_core::states::{ConnectionState, ReplicationState};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{sleep, Instant};

/// What a connection takes, beside the peer's ping-timeout: a second until the peer listens again, and both nodes' dials.
const CONNECT_TIME: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Takes up role and requests.
pub(crate) async fn take_up(administration: Rc<Administration>) {
    if administration.devices.was_primary() {
        let (level, sentence) = match promote(&administration).await {
            Ok(()) => (Level::Info, "The last daemon died as Primary; this one goes on as Primary.".to_owned()),
            Err(refusal) => (
                Level::Error,
                format!("The last daemon died as Primary; this one stays Secondary, and requests that waited fail: {refusal}"),
            ),
        };
        administration.logger.say(level, "role-recovery", &administration.resource, sentence);
    }
    administration.devices.resume();
}

async fn promote(administration: &Administration) -> Result<(), drbd_core::refusal::Refusal> {
    let deadline = Instant::now() + CONNECT_TIME + ping_timeout(administration);
    loop {
        let late = Instant::now() >= deadline;
        if late || peer_is_there(administration).await {
            match administration.carry_out(Request::Primary { force: false }, true).await {
                Err(refusal) if refusal.reason == Reason::InTransientState && !late => {}
                outcome => return outcome.map(|_| ()),
            }
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// In touch, and who copies to whom is settled. A node that is to have no peer does not wait for one.
async fn peer_is_there(administration: &Administration) -> bool {
    let Ok(status) = administration.status().await else { return false };
    status.connections.iter().all(|c| match c.connection.connection {
        ConnectionState::StandAlone => true,
        ConnectionState::Connected => c.peer_devices.iter().all(|d| is_settled(d.replication)),
        _ => false,
    })
}

fn is_settled(replication: ReplicationState) -> bool {
    !matches!(
        replication,
        ReplicationState::Off
            | ReplicationState::StartingSyncS
            | ReplicationState::StartingSyncT
            | ReplicationState::WFBitMapS
            | ReplicationState::WFBitMapT
            | ReplicationState::WFSyncUUID
    )
}

fn ping_timeout(administration: &Administration) -> Duration {
    let facts = administration.facts.borrow();
    let tenths =
        facts.connections.iter().filter_map(|c| c.options.value("ping-timeout").to_string().parse().ok());
    Duration::from_millis(tenths.max().unwrap_or(5u64) * 100)
}
