//! The data plane: one thread that owns the engine, the ring and everything in flight.
//!
//! A turn: hand in what was queued and wait; make events of what completed; give each to the engine and carry out what
//! it commands before the next one is looked at; hand the sends of the whole turn over, one call per socket.

use crate::digest;
use crate::digest_worker::DigestWorker;
use crate::discard_worker::DiscardWorker;
use crate::disk_io::Disks;
use crate::frontend::awaiting_promotion::AwaitingPromotion;
use crate::frontend::nbd::{NbdServer, Reach};
use crate::frontend::ublk_queues::UblkQueues;
use crate::frontend::UpperTable;
use crate::log::Logger;
use crate::mailbox::{Brings, ControlPlane, HandedSession, ToControl, ToData};
use crate::payload_pool::WriteBounds;
use crate::peer_link::{self, PeerLinks};
use crate::ring::{Completion, Op, Ring, Token};
use crate::stream::Pools;
use drbd_core::engine::session_state::SessionState;
use drbd_core::engine::{AdminRequest, Command, Event, Level, Resource};
use drbd_core::ids::{Instant, SocketId, Ticket, VolumeNumber};
use drbd_core::limits::PEER_REQUESTS_MAX;
use drbd_core::refusal::{Reason, Refusal};
use drbd_core::wire::Stream;
use std::collections::VecDeque;
use std::time::Duration;

mod front_ends;

/// What an operation of the ring belongs to; the other half of a token is a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A disk operation.
    Disk,
    /// Receiving from a peer.
    PeerReceive,
    /// Sending to a peer.
    PeerSend,
    /// A peer's listener.
    PeerListen,
    /// Connecting to a peer.
    Dial,
    /// Receiving from an NBD client.
    NbdReceive,
    /// Sending to an NBD client.
    NbdSend,
    /// An export's listener.
    NbdListen,
    /// A request of a ublk device, or the end of one.
    Ublk,
    /// The mailbox.
    Mailbox,
}

impl Source {
    const ALL: [Source; 10] = [
        Source::Disk,
        Source::PeerReceive,
        Source::PeerSend,
        Source::PeerListen,
        Source::Dial,
        Source::NbdReceive,
        Source::NbdSend,
        Source::NbdListen,
        Source::Ublk,
        Source::Mailbox,
    ];

    /// The token of an operation.
    pub(crate) fn token(self, slot: u32) -> Token {
        Token((self as u64) << 32 | u64::from(slot))
    }

    fn of(token: Token) -> (Source, u32) {
        (Source::ALL[(token.0 >> 32) as usize], token.0 as u32)
    }
}

/// What a reply to an administrator means for the shell.
#[derive(Clone, Copy, Debug)]
enum OnReply {
    /// Refused: close the disk.
    Attach(VolumeNumber),
    /// Refused: read on what the peer says.
    HandOver,
    /// Refused: close the sockets.
    Adopt([SocketId; 2]),
    /// Refused: withdraw the export.
    Export(VolumeNumber),
    /// Done: withdraw the export.
    Remove(VolumeNumber),
    /// Done: so many pages are the peer's to fill.
    Buffers(u32),
    /// Done: whether whole pieces that were discarded are believed to read as zeroes.
    Discards(VolumeNumber, bool),
}

/// How far holding requests back is.
#[derive(Debug)]
enum Holding {
    /// Who asked is told when nothing is under way.
    Draining(tokio::sync::oneshot::Sender<()>),
    Drained,
}

/// A session that another daemon goes on with.
#[derive(Debug)]
struct Leaving {
    /// Of the data stream and of the control stream.
    sockets: [SocketId; 2],
    state: Box<SessionState>,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct DataLoop {
    engine: Resource,
    ring: Ring,
    pools: Pools,
    links: PeerLinks,
    disks: Disks,
    nbd: NbdServer,
    ublk: UblkQueues,
    uppers: UpperTable,
    promotion: AwaitingPromotion,
    /// Requests of front ends are held back.
    holding: Option<Holding>,
    /// Given away, and its sockets are not at rest yet.
    leaving: Option<Leaving>,
    control: ControlPlane,
    digests: DigestWorker,
    logger: Logger,
    name: String,
    started: std::time::Instant,
    now: Instant,
    commands: Vec<Command>,
    events: VecDeque<Event>,
    on_reply: Vec<(Ticket, OnReply)>,
    exports: Vec<VolumeNumber>,
    stopping: bool,
}

impl DataLoop {
    /// Everything at rest. Called on the thread that will run it: the ring belongs to one thread.
    pub(crate) fn new(
        engine: Resource,
        name: &str,
        control: ControlPlane,
        logger: Logger,
        reach: Reach,
    ) -> std::io::Result<DataLoop> {
        let (mut ring, refused) = Ring::open()?;
        if let Some(why) = refused {
            let text = format!("io_uring is not available ({why}); a few threads do its work, more slowly.");
            logger.say(Level::Warning, "no-io-uring", name, text);
        }
        let pools = Pools::new()?;
        if let Err(why) = ring.let_pin(pools.pinned) {
            let text = format!("Buffers are pinned for every transfer, not once ({why}); that is slower.");
            logger.say(Level::Info, "memory", name, text);
        }
        let nbd = NbdServer::new(reach, &mut ring);
        Ok(DataLoop {
            engine,
            ring,
            pools,
            links: PeerLinks::default(),
            disks: Disks::new(DiscardWorker::start(control.data_plane())?),
            nbd,
            ublk: UblkQueues::default(),
            uppers: UpperTable::default(),
            promotion: AwaitingPromotion::default(),
            holding: None,
            leaving: None,
            digests: DigestWorker::start(control.data_plane())?,
            control,
            logger,
            name: name.to_owned(),
            started: std::time::Instant::now(),
            now: Instant(0),
            commands: Vec::with_capacity(1024),
            events: VecDeque::with_capacity(64),
            on_reply: Vec::new(),
            exports: Vec::new(),
            stopping: false,
        })
    }

    /// Runs until told to stop.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        let mut done = Vec::with_capacity(4096);
        let mut mail = Vec::new();
        let mut stalled = Vec::new();
        self.watch_mailbox();
        while !self.stopping || !self.links.is_quiet() {
            self.ring.turn(self.patience(), &mut done)?;
            self.now = self.clock();
            for completion in done.drain(..) {
                self.on_completion(completion, &mut mail);
            }
            self.on_time();
            self.resume_stalled(&mut stalled);
            self.look_at_holding();
            self.look_at_leaving();
            self.links.flush(&mut self.ring);
            self.nbd.flush(&mut self.ring);
        }
        Ok(())
    }

    /// Says something to the control plane.
    pub(crate) fn tell(&self, what: ToControl) {
        self.control.send(what);
    }

    fn clock(&self) -> Instant {
        // Never 0, so that an instant before the start is not taken for the start.
        Instant(self.started.elapsed().as_nanos() as u64 + 1)
    }

    /// How long the ring may sleep.
    fn patience(&self) -> Option<Duration> {
        let deadlines = [self.engine.next_deadline(), self.links.next_deadline(), self.nbd.next_deadline()];
        let first = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_nanos(first.0.saturating_sub(self.clock().0)))
    }

    fn on_time(&mut self) {
        if self.links.next_deadline().is_some_and(|d| d <= self.now) {
            if let Some(event) = self.links.on_time(self.now, &mut self.ring, &mut self.pools) {
                self.deliver(event);
            }
        }
        self.nbd.on_time(self.now, &mut self.pools);
        if self.engine.next_deadline().is_some_and(|d| d <= self.now) {
            self.deliver(Event::Timer);
        }
    }

    fn on_completion(&mut self, completion: Completion, mail: &mut Vec<ToData>) {
        let Completion { token, result } = completion;
        let (source, slot) = Source::of(token);
        let (ring, pools) = (&mut self.ring, &mut self.pools);
        match source {
            Source::Disk => {
                if let Some(event) = self.disks.on_done(slot, result, ring, pools) {
                    self.deliver(event);
                }
            }
            Source::PeerReceive => {
                if let Some(event) = self.links.on_received(slot, result, ring, pools) {
                    self.deliver(event);
                }
                self.drain_link(slot);
            }
            Source::PeerSend => {
                if let Some(event) = self.links.on_sent(slot, result, ring, pools) {
                    self.deliver(event);
                }
            }
            Source::PeerListen => match self.links.on_listener(slot, ring, pools) {
                Ok(Some(event)) => self.deliver(event),
                Ok(None) => {}
                Err(sentence) => self.logger.say(Level::Warning, "accept", &self.name, sentence),
            },
            Source::Dial => {
                if let Some(event) = self.links.on_dial(slot, ring, pools) {
                    self.deliver(event);
                }
            }
            Source::NbdReceive => {
                self.nbd.on_received(slot, result, pools);
                self.drain_session(slot);
            }
            Source::NbdSend => {
                self.nbd.on_sent(slot, result, ring, pools);
                self.drain_session(slot);
            }
            Source::NbdListen => self.nbd.on_listener(slot, self.now, ring, pools),
            Source::Ublk => {
                if let Some(volume) = self.ublk.on_command(slot, result) {
                    self.control.send(ToControl::KernelLeft(volume));
                }
                self.drain_ublk();
            }
            Source::Mailbox => self.read_mail(mail),
        }
    }

    /// Hands over packets until the socket has no complete one left.
    fn drain_link(&mut self, slot: u32) {
        loop {
            match self.links.next(slot, &mut self.ring, &mut self.pools) {
                peer_link::Next::Event(event) => self.deliver(event),
                peer_link::Next::Wait | peer_link::Next::Stalled => return,
            }
        }
    }

    fn look_at_leaving(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let Some(taken) = self.links.take_left(leaving.sockets, &mut self.pools) else { return };
        let state = self.leaving.take().map(|leaving| leaving.state);
        let session =
            taken.ok().zip(state).map(|(sockets, state)| Box::new(HandedSession { state, sockets }));
        self.control.send(ToControl::HandedOver(session));
    }

    /// Looks again at what waited for buffers.
    fn resume_stalled(&mut self, slots: &mut Vec<u32>) {
        self.links.take_stalled(slots);
        for slot in slots.drain(..) {
            self.drain_link(slot);
        }
        self.disks.retry_starved(&mut self.ring, &mut self.pools);
        while let Some(event) = self.disks.take_failed() {
            self.deliver(event);
        }
        self.nbd.take_stalled(slots);
        for slot in slots.drain(..) {
            self.drain_session(slot);
        }
        self.drain_ublk();
    }

    /// One event and all that follows from it at once.
    fn deliver(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let mut commands = std::mem::take(&mut self.commands);
            self.engine.handle(self.now, event, &mut commands);
            self.carry_out_all(commands);
            next = self.events.pop_front();
        }
    }

    /// Carries commands out and keeps their memory for the next ones.
    fn carry_out_all(&mut self, mut commands: Vec<Command>) {
        for command in commands.drain(..) {
            self.carry_out(command);
        }
        self.commands = commands;
    }

    fn carry_out(&mut self, command: Command) {
        let (ring, pools) = (&mut self.ring, &mut self.pools);
        let answer = match command {
            Command::Disk(io) => {
                self.disks.start(io, ring, pools);
                self.disks.take_failed()
            }
            Command::Meta(io) => {
                let mut block = [0; 4096];
                self.engine.encode_meta(io.volume, io.op, &mut block);
                self.disks.start_meta(io, &block, ring, pools);
                self.disks.take_failed()
            }
            Command::Send { socket, frame, payload } => self.links.send(socket, &frame, payload, pools),
            Command::Complete { tag, result, payload } => {
                self.complete(tag, (result, payload));
                None
            }
            Command::Release { payload } => {
                pools.payloads.release(payload);
                None
            }
            Command::SetVersion { socket, version } => {
                self.links.set_version(socket, version);
                None
            }
            Command::SetIntegrity { socket, direction, algorithm } => {
                self.links.set_integrity(socket, direction, &algorithm, pools)
            }
            Command::Close { socket } => {
                self.links.close(socket, self.now, ring, pools);
                None
            }
            Command::Dial { peer, link } => self.links.dial(peer, &link, self.now, ring),
            Command::CancelDial { peer } => {
                self.links.cancel_dial(peer, ring);
                None
            }
            Command::Listen { peer, link } => self.links.listen(peer, &link, self.now, ring),
            Command::Unlisten { peer } => {
                self.links.unlisten(peer, ring);
                None
            }
            Command::Challenge { peer } => Some(Event::Challenge { peer, bytes: digest::challenge() }),
            Command::Hmac { peer, purpose, algorithm, key, message } => {
                let digest = digest::hmac(&algorithm, key.as_bytes(), &message);
                Some(Event::Hmac { peer, purpose, digest })
            }
            Command::Digest { job, algorithm, payload, bytes } => {
                let span = pools.payloads.span(payload).part(0, bytes as usize);
                self.digests.ask(job, algorithm, span);
                None
            }
            Command::RunHandler { handler, call } => {
                self.control.send(ToControl::RunHandler { handler, call });
                None
            }
            Command::SettingsAdopted { peer, options } => {
                self.control.send(ToControl::SettingsAdopted { peer, options });
                None
            }
            Command::SizeAdopted { volume, size } => {
                self.control.send(ToControl::SizeAdopted { volume, size });
                None
            }
            Command::MeasureDisk { volume } => {
                let bytes = self.disks.measure(volume);
                Some(Event::DiskMeasured { volume, bytes })
            }
            // A client of the socket learns the size when it opens; there is nothing to tell it later.
            Command::Device { volume, size, writable } => {
                self.disks.reach(volume, size);
                self.nbd.resized(volume, size);
                self.control.send(ToControl::Device { volume, size, writable });
                None
            }
            Command::CloseDisk { volume } => {
                self.disks.close(volume);
                self.control.send(ToControl::DiskClosed(volume));
                None
            }
            Command::HandedOver { data, control, state } => {
                self.links.let_go([data, control], ring);
                self.leaving = Some(Leaving { sockets: [data, control], state });
                None
            }
            Command::Reply { ticket, result } => {
                self.settle_reply(ticket, result.is_ok());
                self.control.send(ToControl::Reply { ticket, result });
                None
            }
            Command::Notify(notification) => {
                self.control.notify(notification);
                None
            }
            Command::Log(record) => {
                self.logger.record(*record);
                None
            }
        };
        self.events.extend(answer);
    }

    fn watch_mailbox(&mut self) {
        let fd = self.control.wake_fd();
        self.ring.queue(Source::Mailbox.token(0), fd, Op::Ready { write: false });
    }

    fn read_mail(&mut self, mail: &mut Vec<ToData>) {
        self.control.receive(mail);
        self.watch_mailbox();
        for letter in mail.drain(..) {
            match letter {
                ToData::Admin { ticket, request, brings } => self.ask(ticket, request, brings),
                ToData::Status { ticket } => {
                    let status = Box::new(self.engine.status());
                    self.control.send(ToControl::Status { ticket, status });
                }
                ToData::Generation { ticket, peer, volume } => {
                    let generation = self.engine.generation(peer, volume).map(Box::new);
                    self.control.send(ToControl::Generation { ticket, generation });
                }
                ToData::HandlerExited { handler, status } => {
                    self.deliver(Event::HandlerExited { handler, status });
                }
                ToData::ForeignResync { minor, busy } => self.deliver(Event::ForeignResync { minor, busy }),
                ToData::Digest { job, digest } => self.deliver(Event::Digest { job, digest }),
                ToData::Discarded { slot, result } => {
                    if let Some(event) = self.disks.on_done(slot, result, &mut self.ring, &mut self.pools) {
                        self.deliver(event);
                    }
                }
                ToData::Helper { kind, helper } => {
                    let mut commands = std::mem::take(&mut self.commands);
                    self.engine.helper_event(kind, *helper, &mut commands);
                    self.carry_out_all(commands);
                }
                ToData::ServeKernel { volume, socket } => {
                    self.nbd.serve_kernel(volume, socket, &mut self.ring, &mut self.pools);
                }
                ToData::Hold(tell) => self.hold(tell),
                ToData::AutoPromote(on) => self.promotion.wanted = on,
                ToData::Promoted(done) => self.settle_promotion(done),
                ToData::ServeUblk(device) => self.ublk.serve(*device, &mut self.ring),
                ToData::ServeSecured(secured) => {
                    self.nbd.serve_secured(secured, self.now, &mut self.ring, &mut self.pools);
                }
                ToData::Stop => {
                    self.stopping = true;
                    self.links.close_all(self.now, &mut self.ring, &mut self.pools);
                }
            }
        }
    }

    /// A request of an administrator, with what it brings.
    fn ask(&mut self, ticket: Ticket, mut request: Box<AdminRequest>, brings: Brings) {
        match brings {
            Brings::Nothing => {}
            Brings::Disk(volume, disk) => {
                if self.disks.holds(volume) {
                    let refusal = Box::new(Refusal::from(Reason::DiskConfigured));
                    return self.control.send(ToControl::Reply { ticket, result: Err(refusal) });
                }
                self.disks.attach(volume, *disk);
                self.on_reply.push((ticket, OnReply::Attach(volume)));
            }
            Brings::Export(volume, listener) => {
                self.nbd.export(volume, listener, &mut self.ring);
                self.exports.push(volume);
                self.on_reply.push((ticket, OnReply::Export(volume)));
            }
            Brings::Sockets(sockets) => {
                let [data, control] = *sockets;
                let data = self.links.adopt(data, Stream::Data, &mut self.ring, &mut self.pools);
                let control = self.links.adopt(control, Stream::Control, &mut self.ring, &mut self.pools);
                let sockets = [data, control].map(Option::unwrap_or_default);
                self.on_reply.push((ticket, OnReply::Adopt(sockets)));
                if let AdminRequest::AdoptSession { data, control, .. } = &mut *request {
                    [*data, *control] = sockets;
                }
            }
        }
        match &*request {
            AdminRequest::DelMinor { volume } => self.on_reply.push((ticket, OnReply::Remove(*volume))),
            AdminRequest::Down => {
                let all = self.exports.iter().map(|v| (ticket, OnReply::Remove(*v)));
                self.on_reply.extend(all);
            }
            AdminRequest::NewPeer { options, .. } | AdminRequest::NetOptions { options, .. } => {
                self.on_reply.push((ticket, OnReply::Buffers(options.max_buffers)));
            }
            AdminRequest::DiskOptions { volume, options } => {
                let believed = options.discard_zeroes_if_aligned;
                self.on_reply.push((ticket, OnReply::Discards(*volume, believed)));
            }
            AdminRequest::HandOver { .. } => {
                self.links.hold_data(true);
                self.on_reply.push((ticket, OnReply::HandOver));
            }
            AdminRequest::Attach(attach) => {
                self.disks.believe_discards(attach.volume, attach.options.discard_zeroes_if_aligned);
            }
            _ => {}
        }
        self.deliver(Event::Admin { ticket, request });
    }

    /// As many buffers as a peer may fill, beside what front ends use.
    fn make_room(&mut self, max_buffers: u32) {
        let pages = max_buffers as usize;
        self.pools.payloads.grow_to(pages * 4096 * 2);
        // Reads, resync and trims of the peer are requests as well.
        self.pools.payloads.bound_writes(WriteBounds { pages, writes: PEER_REQUESTS_MAX / 2 });
    }

    fn settle_reply(&mut self, ticket: Ticket, done: bool) {
        let mut at = 0;
        while at < self.on_reply.len() {
            if self.on_reply[at].0 != ticket {
                at += 1;
                continue;
            }
            match self.on_reply.swap_remove(at).1 {
                OnReply::Attach(volume) if !done => self.disks.close(volume),
                OnReply::Export(volume) if !done => self.withdraw(volume),
                OnReply::HandOver if !done => self.links.hold_data(false),
                OnReply::Adopt(sockets) if !done => {
                    for socket in sockets {
                        self.links.close(socket, self.now, &mut self.ring, &mut self.pools);
                    }
                }
                OnReply::Remove(volume) if done => self.withdraw(volume),
                OnReply::Buffers(max_buffers) if done => self.make_room(max_buffers),
                OnReply::Discards(volume, believed) if done => self.disks.believe_discards(volume, believed),
                OnReply::Attach(_)
                | OnReply::HandOver
                | OnReply::Adopt(_)
                | OnReply::Export(_)
                | OnReply::Remove(_)
                | OnReply::Buffers(_)
                | OnReply::Discards(..) => {}
            }
        }
    }

    fn withdraw(&mut self, volume: VolumeNumber) {
        self.exports.retain(|v| *v != volume);
        self.nbd.withdraw(volume, &mut self.ring, &mut self.pools);
    }
}
