//! `resync-after` volumes of other resources: each of them is another process, watched through its control socket as
//! any client could.
//!
//! The engine learns which of them are in the way. A daemon that is not there holds nothing, as a minor that does not
//! exist holds nothing in DRBD; it is looked for again and again. Cycles are found by asking every daemon along the chain
//! for its configuration, when a dependency is to be made.

use crate::daemon_client::Daemon;
use crate::mailbox::{DataPlane, ToData};
use crate::run_dir::RunDir;
use drbd_core::config::{DiskOptions, OptionSet};
use drbd_core::control::{
    Configuration, DaemonLine, DeviceObject, Done, Kind, Notification, Object, PeerDeviceObject, Request,
    ResourceStatus,
};
use drbd_core::ids::{Minor, NodeId, VolumeNumber};
use drbd_core::refusal::{Reason, Refusal};
use drbd_core::states::DiskState;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Before a daemon that is not there is looked for again.
const RETRY: Duration = Duration::from_millis(500);
/// A daemon that does not answer within this time is taken for one that is not there.
const PATIENCE: Duration = Duration::from_secs(1);
/// Volumes a dependency may go through.
const CHAIN_MAX: usize = 256;

/// The volumes of other resources that this one waits for.
#[derive(Debug)]
pub(crate) struct ResyncDependencies {
    run_dir: Rc<RunDir>,
    data: DataPlane,
    watched: RefCell<BTreeMap<Minor, AbortHandle>>,
}

/// What `resync-after` of these disk options names.
pub(crate) fn resync_after(options: &OptionSet) -> Option<Minor> {
    DiskOptions::from(options).resync_after
}

/// The volume a minor's volume waits for, in this configuration.
fn waits_for(configuration: &Configuration, minor: Minor) -> Option<Minor> {
    let volume = configuration.volumes.iter().find(|v| v.minor == minor)?;
    resync_after(&volume.disk.as_ref()?.options)
}

/// The minors of other resources that volumes of this one wait for.
fn foreign(configuration: &Configuration) -> BTreeSet<Minor> {
    let is_own = |minor: &Minor| configuration.volumes.iter().any(|v| v.minor == *minor);
    let disks = configuration.volumes.iter().filter_map(|v| v.disk.as_ref());
    disks.filter_map(|disk| resync_after(&disk.options)).filter(|minor| !is_own(minor)).collect()
}

impl ResyncDependencies {
    /// Nothing is watched yet.
    pub(crate) fn new(run_dir: Rc<RunDir>, data: DataPlane) -> ResyncDependencies {
        ResyncDependencies { run_dir, data, watched: RefCell::default() }
    }

    /// Whether a volume may wait for another one. Those beyond a daemon that does not answer are not known.
    pub(crate) async fn check(&self, own: Configuration, minor: Minor, after: Minor) -> Result<(), Refusal> {
        let mut next = after;
        for _ in 0..CHAIN_MAX {
            if next == minor {
                return Err(Reason::ResyncAfterCycle.into());
            }
            let further = if own.volumes.iter().any(|v| v.minor == next) {
                waits_for(&own, next)
            } else {
                self.ask(next, Request::Show)
                    .await
                    .and_then(|done| waits_for(done.configuration.as_ref()?, next))
            };
            let Some(further) = further else { return Ok(()) };
            next = further;
        }
        Err(Reason::ResyncAfterCycle.into())
    }

    /// Asks the resource that has this minor.
    async fn ask(&self, minor: Minor, request: Request) -> Option<Done> {
        let resource = self.run_dir.holder(minor)?;
        let asked = async {
            let mut daemon = Daemon::reach(&self.run_dir, &resource).await.ok()?;
            daemon.ask(request).await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// Before a disk is attached that waits for this minor: what is under way there holds it from the first moment.
    pub(crate) async fn look_at(&self, minor: Minor) {
        if self.watched.borrow().contains_key(&minor) {
            return;
        }
        let status = self.ask(minor, Request::Status).await.and_then(|done| done.status);
        let seen = status.map(|status| Seen::of(minor, &status));
        let busy = seen.is_some_and(|seen| seen.is_busy());
        self.data.send(ToData::ForeignResync { minor, busy });
        self.watch(minor);
    }

    /// Watches what the configuration names, and nothing else.
    pub(crate) fn follow(&self, configuration: &Configuration) {
        let wanted = foreign(configuration);
        self.watched.borrow_mut().retain(|minor, task| {
            let keep = wanted.contains(minor);
            if !keep {
                task.abort();
                self.data.send(ToData::ForeignResync { minor: *minor, busy: false });
            }
            keep
        });
        for minor in wanted {
            self.watch(minor);
        }
    }

    fn watch(&self, minor: Minor) {
        let (run_dir, data) = (Rc::clone(&self.run_dir), self.data.clone());
        self.watched.borrow_mut().entry(minor).or_insert_with(|| {
            let watching = async move {
                loop {
                    // However it ended: it is looked for again.
                    let _ = follow_one(&run_dir, &data, minor).await;
                    data.send(ToData::ForeignResync { minor, busy: false });
                    tokio::time::sleep(RETRY).await;
                }
            };
            tokio::task::spawn_local(watching).abort_handle()
        });
    }
}

/// Follows one volume as long as its daemon has it.
async fn follow_one(run_dir: &RunDir, data: &DataPlane, minor: Minor) -> std::io::Result<()> {
    let Some(resource) = run_dir.holder(minor) else { return Ok(()) };
    let mut daemon = tokio::time::timeout(PATIENCE, Daemon::reach(run_dir, &resource)).await??;
    tokio::time::timeout(PATIENCE, daemon.ask(Request::Subscribe)).await??;
    let mut seen = Seen { minor, volume: None, has_disk: false, busy: BTreeSet::new() };
    let mut told = None;
    let mut complete = false;
    loop {
        let DaemonLine::Notification { notification } = daemon.next().await? else { continue };
        complete |= matches!(notification.what, Object::End);
        seen.note(&notification);
        if complete && seen.volume.is_none() {
            return Ok(());
        }
        if complete && told != Some(seen.is_busy()) {
            told = Some(seen.is_busy());
            data.send(ToData::ForeignResync { minor, busy: seen.is_busy() });
        }
    }
}

/// What is known of a volume of another resource.
#[derive(Debug)]
struct Seen {
    minor: Minor,
    volume: Option<VolumeNumber>,
    has_disk: bool,
    /// Peers towards which it copies, compares or is held.
    busy: BTreeSet<NodeId>,
}

impl Seen {
    fn of(minor: Minor, status: &ResourceStatus) -> Seen {
        let mut seen = Seen { minor, volume: None, has_disk: false, busy: BTreeSet::new() };
        status.devices.iter().for_each(|device| seen.note_device(device, false));
        let peer_devices = status.connections.iter().flat_map(|c| &c.peer_devices);
        peer_devices.for_each(|peer_device| seen.note_peer_device(peer_device, false));
        seen
    }

    fn note(&mut self, notification: &Notification) {
        let gone = notification.kind == Kind::Destroy;
        match &notification.what {
            Object::Device(device) => self.note_device(device, gone),
            Object::PeerDevice(peer_device) => self.note_peer_device(peer_device, gone),
            Object::Connection(connection) if gone => {
                self.busy.remove(&connection.peer_node_id);
            }
            Object::Resource(_)
            | Object::Connection(_)
            | Object::Path(_)
            | Object::Helper(_)
            | Object::End => {}
        }
    }

    fn note_device(&mut self, device: &DeviceObject, gone: bool) {
        if device.minor == self.minor {
            self.volume = (!gone).then_some(device.volume);
            self.has_disk = !matches!(
                device.disk,
                DiskState::Diskless | DiskState::Attaching | DiskState::Failed | DiskState::Detaching
            );
        }
    }

    fn note_peer_device(&mut self, peer_device: &PeerDeviceObject, gone: bool) {
        if Some(peer_device.volume) != self.volume {
            return;
        }
        let holds = peer_device.replication.holds_dependants() || peer_device.resync_suspended.any();
        if holds && !gone {
            self.busy.insert(peer_device.peer_node_id);
        } else {
            self.busy.remove(&peer_device.peer_node_id);
        }
    }

    fn is_busy(&self) -> bool {
        self.has_disk && !self.busy.is_empty()
    }
}

#[cfg(test)]
mod tests;
