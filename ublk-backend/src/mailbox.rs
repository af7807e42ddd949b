//! What the control plane and the data plane say to each other: two queues, one of them with an eventfd, because the
//! data plane sleeps in its ring.

use crate::disk::OpenDisk;
use crate::frontend::tls_worker::Handover;
use crate::frontend::ublk_queues::OpenDevice;
use crate::peer_link::LeftSocket;
use drbd_core::config::OptionSet;
use drbd_core::control::{Done, GenerationStatus, HelperObject, Kind, Notification, ResourceStatus};
use drbd_core::engine::session_state::SessionState;
use drbd_core::engine::{AdminRequest, HandlerCall};
use drbd_core::ids::{DigestId, HandlerId, Minor, NodeId, Sector, Ticket, VolumeNumber};
use drbd_core::refusal::Refusal;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

/// Notifications under way to the control plane; when it falls further behind, subscribers start afresh.
const NOTIFICATIONS_MAX: usize = 16 << 10;

/// What a request brings with it that the engine does not see.
#[derive(Debug)]
pub(crate) enum Brings {
    /// Nothing.
    Nothing,
    /// The disk to attach.
    Disk(VolumeNumber, Box<OpenDisk>),
    /// The socket of a new volume.
    Export(VolumeNumber, UnixListener),
    /// The sockets of a session to adopt: of the data stream and of the control stream.
    Sockets(Box<[LeftSocket; 2]>),
}

/// To the data plane.
#[derive(Debug)]
pub(crate) enum ToData {
    /// For the engine.
    Admin {
        /// Echoed by the reply.
        ticket: Ticket,
        /// What is asked.
        request: Box<AdminRequest>,
        /// What comes with it.
        brings: Brings,
    },
    /// Tell the present state.
    Status {
        /// Echoed.
        ticket: Ticket,
    },
    /// Tell a generation.
    Generation {
        /// Echoed.
        ticket: Ticket,
        /// Towards whom.
        peer: NodeId,
        /// Of what.
        volume: VolumeNumber,
    },
    /// A handler ended.
    HandlerExited {
        /// Which.
        handler: HandlerId,
        /// Exit code.
        status: i32,
    },
    /// A block is digested; `None` if the algorithm is not known here.
    Digest {
        /// Of the command.
        job: DigestId,
        /// The digest.
        digest: Option<Box<[u8]>>,
    },
    /// Space was given back, or not.
    Discarded {
        /// Of the disk operation.
        slot: u32,
        /// 0, or a negative error number.
        result: i32,
    },
    /// A handler begins or ended: for the subscribers.
    Helper {
        /// Which of the two.
        kind: Kind,
        /// The handler.
        helper: Box<HelperObject>,
    },
    /// A volume of another resource on this host is in the way of resyncs that wait for it, or no longer.
    ForeignResync {
        /// Its minor.
        minor: Minor,
        /// Whether it is.
        busy: bool,
    },
    /// Serve this host's kernel, which has the other end of this socket.
    ServeKernel {
        /// With which volume.
        volume: VolumeNumber,
        /// Our end.
        socket: OwnedFd,
    },
    /// Serve a ublk device.
    ServeUblk(Box<OpenDevice>),
    /// Hold requests of front ends back; answered when those under way have ended. `None`: not any more.
    Hold(Option<oneshot::Sender<()>>),
    /// Whether a write to a Secondary's block device asks for the promotion.
    AutoPromote(bool),
    /// A promotion that a write asked for was carried out, or not.
    Promoted(bool),
    /// Serve an NBD client that has TLS now, by this end of a pair of sockets.
    ServeSecured(Handover),
    /// End.
    Stop,
}

/// To the control plane.
#[derive(Debug)]
pub(crate) enum ToControl {
    /// Answer to a request.
    Reply {
        /// Of the request.
        ticket: Ticket,
        /// What came of it.
        result: Result<Box<Done>, Box<Refusal>>,
    },
    /// Answer to [`ToData::Status`].
    Status {
        /// Echoed.
        ticket: Ticket,
        /// The state.
        status: Box<ResourceStatus>,
    },
    /// Answer to [`ToData::Generation`].
    Generation {
        /// Echoed.
        ticket: Ticket,
        /// None without a disk.
        generation: Option<Box<GenerationStatus>>,
    },
    /// To the subscribers.
    Notify(Box<Notification>),
    /// Notifications were lost: subscribers must start afresh.
    Overrun,
    /// Run a handler.
    RunHandler {
        /// Echoed.
        handler: HandlerId,
        /// What.
        call: Box<HandlerCall>,
    },
    /// The peer's administrator changed net options of both nodes.
    SettingsAdopted {
        /// Which peer.
        peer: NodeId,
        /// Those options.
        options: Box<OptionSet>,
    },
    /// A size was asked for, here or at the peer.
    SizeAdopted {
        /// Of which volume.
        volume: VolumeNumber,
        /// 0: as large as both disks allow.
        size: Sector,
    },
    /// A disk was let go.
    DiskClosed(VolumeNumber),
    /// A device's size became known or changed, or whether it may be written.
    Device {
        /// Of which volume.
        volume: VolumeNumber,
        /// Its size.
        size: Sector,
        /// This node is Primary.
        writable: bool,
    },
    /// This host's kernel has no connection to a volume any more.
    KernelLeft(VolumeNumber),
    /// A session was given away, with its sockets; `None`: they were lost on the way.
    HandedOver(Option<Box<HandedSession>>),
    /// A write waits for the promotion. To be answered with [`ToData::Promoted`].
    Promote,
    /// The data plane ended by itself.
    Failed(String),
}

/// A session on its way from one daemon to the next.
#[derive(Debug)]
pub(crate) struct HandedSession {
    /// What the peer remembers of it.
    pub(crate) state: Box<SessionState>,
    /// Of the data stream and of the control stream.
    pub(crate) sockets: [LeftSocket; 2],
}

#[derive(Debug)]
struct Inbox {
    queue: Mutex<Vec<ToData>>,
    wake: EventFd,
}

/// The control plane's end.
#[derive(Clone, Debug)]
pub(crate) struct DataPlane {
    inbox: Arc<Inbox>,
    notifications: Arc<AtomicUsize>,
}

impl DataPlane {
    /// Says something.
    pub(crate) fn send(&self, what: ToData) {
        let mut queue = self.inbox.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(what);
        let first = queue.len() == 1;
        drop(queue);
        // Who was woken for an earlier one takes all there are.
        if first {
            let _ = self.inbox.wake.write(1);
        }
    }

    /// A notification was taken off the queue.
    pub(crate) fn took_notification(&self) {
        self.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The data plane's end.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    inbox: Arc<Inbox>,
    out: UnboundedSender<ToControl>,
    notifications: Arc<AtomicUsize>,
    overrun: bool,
}

impl ControlPlane {
    /// What others say things to the data plane with.
    pub(crate) fn data_plane(&self) -> DataPlane {
        DataPlane { inbox: Arc::clone(&self.inbox), notifications: Arc::clone(&self.notifications) }
    }

    /// Becomes readable when something was said.
    pub(crate) fn wake_fd(&self) -> RawFd {
        self.inbox.wake.as_raw_fd()
    }

    /// Everything said since the last call.
    pub(crate) fn receive(&self, into: &mut Vec<ToData>) {
        let _ = self.inbox.wake.read();
        let mut queue = self.inbox.queue.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut queue);
    }

    /// Says something. What the other side has asked for bounds this queue.
    pub(crate) fn send(&self, what: ToControl) {
        let _ = self.out.send(what);
    }

    /// Passes on a notification, unless too many wait already.
    pub(crate) fn notify(&mut self, notification: Box<Notification>) {
        if self.notifications.load(Ordering::Relaxed) >= NOTIFICATIONS_MAX {
            if !self.overrun {
                self.overrun = true;
                self.send(ToControl::Overrun);
            }
            return;
        }
        self.overrun = false;
        self.notifications.fetch_add(1, Ordering::Relaxed);
        self.send(ToControl::Notify(notification));
    }
}

/// Both ends.
pub(crate) fn mailbox() -> std::io::Result<(DataPlane, ControlPlane, UnboundedReceiver<ToControl>)> {
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let inbox = Arc::new(Inbox { queue: Mutex::default(), wake });
    let notifications = Arc::new(AtomicUsize::new(0));
    let (out, from_data) = unbounded_channel();
    let control = ControlPlane {
        inbox: Arc::clone(&inbox),
        out,
        notifications: Arc::clone(&notifications),
        overrun: false,
    };
    Ok((DataPlane { inbox, notifications }, control, from_data))
}

#[cfg(test)]
mod tests;
