//! Another kind of run: daemons make way for the next one in the middle of everything, and hand it their session
//! (decision 0037). Its seeds begin at [`FIRST_SEED`], so that it takes no dice from the others. Of four, one is without
//! faults, one is [administered](super::administered), and one has [two Primaries](super::two_primaries).
//!
//! A daemon does what the real one does: its users wait, it becomes Secondary if it was Primary, reads no more of its data
//! stream, and asks to hand the session over. Then it is gone. What arrived and was not read stays with the sockets. The
//! next one begins after a while, with the same disks and configuration, adopts the session, and is Primary again. Faults
//! happen at any moment of that, and sometimes the next one cannot be started.
//!
//! What is checked besides: where nothing disturbs it, the session is handed over and adopted, stays as it was on both
//! nodes, and no generation is new; and who waits to be Primary again is not where somebody else was meanwhile.

use super::checkers::generation::claims_same;
use super::checkers::Claims;
use super::clock::{Time, MS, SECOND};
use super::cluster::{Cluster, Happening};
use super::network::Piece;
use super::node::{Daemon, Endpoint, Step};
use super::planted::Bug;
use super::prng::Prng;
use super::recovery::Held;
use drbd_core::config::OnCongestion;
use drbd_core::engine::generation::ROLE_BIT;
use drbd_core::engine::session_state::SessionState;
use drbd_core::engine::{AdminRequest, Event, SocketLoss};
use drbd_core::ids::{NodeId, SocketId};
use drbd_core::refusal::Refusal;
use drbd_core::states::{ConnectionState, DiskState, Protocol, ReplicationState};
use drbd_core::wire::{self, Framer, Stream};
use std::ops::Range;

/// Seeds from here on are of this kind.
pub const FIRST_SEED: u64 = 1 << 46;
const SEEDS: Range<u64> = FIRST_SEED..FIRST_SEED << 1;

/// So long nothing may have gone wrong for a moment to be calm.
const CALM: Time = SECOND;
/// A daemon that is away for longer may be given up by its peer.
const AWAY: Time = 300 * MS;
/// A daemon that is given less time may not find it in time.
const ENOUGH_MS: u64 = 1000;

/// It is a seed of this kind.
pub(crate) fn is_wanted(seed: u64) -> bool {
    SEEDS.contains(&seed)
}

/// It is one without faults.
pub(crate) fn is_calm(seed: u64) -> bool {
    is_wanted(seed) && seed % 4 == 1
}

/// It is one with administrators.
pub(crate) fn is_administered(seed: u64) -> bool {
    is_wanted(seed) && seed % 4 == 2
}

/// It is one with two Primaries.
pub(crate) fn has_two_primaries(seed: u64) -> bool {
    is_wanted(seed) && seed % 4 == 3
}

/// Something that happens in such a run.
#[derive(Clone, Debug)]
pub(crate) enum HandOver {
    /// The daemon of a node is to make way.
    Begin { node: usize, way: Way },
    /// It is gone, and the next one begins, unless that cannot be started.
    Next { node: usize, run: u32 },
    /// The peer has had time to notice.
    Look { node: usize, run: u32, calm: Calm },
}

/// How.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    within_ms: u64,
    /// From handing over to the next daemon.
    gap: Time,
    /// That cannot be started.
    fails: bool,
}

/// How it was as nothing disturbed it.
#[derive(Clone, Debug)]
pub(crate) struct Calm {
    disturbances: u64,
    generations: Vec<Option<u64>>,
    /// Connections of the network there have been.
    links: usize,
    since: Time,
}

/// Where a daemon is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// It stays.
    #[default]
    Staying,
    /// It asks to hand its session over: the data stream is not read.
    Asking,
    /// It is about to end: nothing is read.
    Leaving,
    /// It has begun, and has not adopted its session: nothing is read.
    Coming,
}

/// What a daemon has to do with it.
#[derive(Debug, Default)]
pub(crate) struct Handing {
    stage: Stage,
    way: Way,
    was_primary: bool,
    given: Option<Given>,
    calm: Option<Calm>,
}

/// A session on its way.
#[derive(Debug)]
struct Given {
    data: SocketId,
    control: SocketId,
    state: String,
}

impl Handing {
    /// Nothing is asked of it any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stage == Stage::Leaving
    }

    /// What arrives there is read.
    pub(crate) fn reads(&self, endpoint: &Endpoint) -> bool {
        match self.stage {
            Stage::Staying => true,
            Stage::Asking => endpoint.framer.stream() != Some(Stream::Data),
            Stage::Leaving | Stage::Coming => false,
        }
    }
}

impl Cluster {
    /// Plans what comes besides the faults.
    pub(crate) fn plan_hand_overs(&mut self) {
        if !is_wanted(self.seed) {
            return;
        }
        let mut dice = Prng::new(self.seed, 15);
        let heal_at = self.setup.heal_at;
        for _ in 0..dice.between(1, 8) {
            let at = dice.between(heal_at / 20, heal_at);
            let way = Way {
                within_ms: dice.pick(&[20, 200, 1000, 2000]),
                gap: dice.skewed(MS, 30 * MS, 2 * SECOND),
                fails: dice.chance(100),
            };
            let node = dice.below(2) as usize;
            self.clock.at(at, Happening::HandOver(HandOver::Begin { node, way }));
        }
    }

    /// Something may be reason for a connection to end.
    pub(crate) fn note_disturbance(&mut self, happening: &Happening) {
        match happening {
            Happening::Timer { .. }
            | Happening::Disk { .. }
            | Happening::Deliver { .. }
            | Happening::Announce { .. }
            | Happening::Dial { .. }
            | Happening::Post { .. }
            | Happening::Application { .. }
            | Happening::Operator { .. }
            | Happening::Tend
            | Happening::HandOver(HandOver::Next { .. } | HandOver::Look { .. }) => {}
            Happening::HandOver(HandOver::Begin { .. }) => self.disturbed.1 += 1,
            _ => self.disturbed = (self.clock.now(), self.disturbed.1 + 1),
        }
    }

    /// It happens.
    pub(crate) fn hand_over(&mut self, hand_over: HandOver) {
        match hand_over {
            HandOver::Begin { node, way } => self.begin_hand_over(node, way),
            HandOver::Next { node, run } if self.is_run(node, run) => self.next_daemon(node),
            HandOver::Look { node, run, calm } if self.is_run(node, run) => self.look_at_peer(node, &calm),
            HandOver::Next { .. } | HandOver::Look { .. } => {}
        }
    }

    fn begin_hand_over(&mut self, node: usize, way: Way) {
        let Some(claims) = self.claims(node, 0).filter(|_| self.healed_at.is_none()) else { return };
        let daemon = self.daemon(node);
        if daemon.waiting.is_some() || !daemon.script.is_empty() || daemon.handing.stage != Stage::Staying {
            return;
        }
        daemon.handing = Handing { way, was_primary: claims.primary, ..Handing::default() };
        if claims.primary {
            daemon.script.extend([Step::StopApplication, Step::Secondary { force: false }]);
        }
        daemon.script.push_back(Step::HandOver);
        self.note(Some(node), "HAND-OVER", format_args!("{way:?}"));
        self.advance(node);
    }

    /// What a step of it asks of the engine.
    pub(crate) fn hand_over_request(&mut self, node: usize, step: Step) -> Option<AdminRequest> {
        match step {
            Step::TakeBack => Some(AdminRequest::TakeBack),
            Step::Adopt => self.adopt_request(node),
            _ => {
                let calm = self.calm(node);
                let demoted = |c: Claims| !c.primary && c.connection == ConnectionState::Connected;
                let demoted = self.claims(node, 0).is_some_and(demoted);
                let waits = self.daemon(node).handing.was_primary && demoted && !self.setup.net.two_primaries;
                if waits && self.nodes[node].held.is_none() {
                    self.nodes[node].held = Some(Held::nothing());
                }
                let handing = &mut self.daemon(node).handing;
                handing.stage = Stage::Asking;
                handing.calm = calm;
                Some(AdminRequest::HandOver { within_ms: handing.way.within_ms })
            }
        }
    }

    /// Everything is well, and was for a while.
    fn calm(&self, node: usize) -> Option<Calm> {
        let now = self.clock.now();
        let (at, disturbances) = self.disturbed;
        let in_sync =
            (0..self.sizes.len()).all(|v| (0..2).all(|n| self.claims(n, v).is_some_and(|c| claims_same(&c))));
        let idle = |d: &Daemon| d.script.is_empty() && d.waiting.is_none() && d.aside.is_empty();
        let stays = |d: &Daemon| idle(d) && d.handing.stage == Stage::Staying;
        let peer_stays = self.nodes[1 - node].daemon.as_ref().is_some_and(stays);
        let suspended = |d: &Daemon| d.resource.status().resource.suspended.any();
        let suspended = self.nodes.iter().filter_map(|n| n.daemon.as_ref()).any(suspended);
        let open = self.network.blocked(0, 1).max(self.network.blocked(1, 0)) <= now;
        let well = self.nodes.iter().flat_map(|n| &n.volumes).all(|volume| {
            [Some(&volume.data), volume.meta.as_ref()].into_iter().flatten().all(|disk| {
                // Space is looked for every three seconds.
                let full_until = disk.full_until.max(disk.meta_full_until) + 4 * SECOND;
                let busy_until = full_until.max(disk.stalled_until + CALM);
                disk.errors_per_mille == 0 && busy_until <= now
            })
        });
        let calm = at + CALM <= now && in_sync && peer_stays && !suspended && open && well;
        calm.then(|| Calm {
            disturbances,
            generations: self.all_generations(),
            links: self.network.connections.len(),
            since: now,
        })
    }

    fn all_generations(&self) -> Vec<Option<u64>> {
        let one = |n: usize, v: usize| self.generations(n, v).map(|set| set.current & !ROLE_BIT);
        (0..self.sizes.len()).flat_map(|v| [one(0, v), one(1, v)]).collect()
    }

    fn is_still(&self, calm: &Calm) -> bool {
        calm.disturbances == self.disturbed.1 && self.healed_at.is_none()
    }

    /// An engine gives its session away.
    pub(crate) fn handed_over(
        &mut self,
        node: usize,
        (data, control): (SocketId, SocketId),
        state: &SessionState,
    ) {
        let handing = &mut self.daemon(node).handing;
        handing.stage = Stage::Leaving;
        handing.given = Some(Given { data, control, state: state.encode() });
        self.note(Some(node), "handed-over", format_args!("{}", state.encode()));
    }

    /// An engine has answered a step of it.
    pub(crate) fn hand_over_answered(&mut self, node: usize, step: Step, refusal: Option<&Refusal>) {
        match step {
            Step::HandOver => self.hand_over_decided(node, refusal),
            Step::TakeBack => {
                self.daemon(node).handing.given = None;
                self.stays(node);
                self.wants_role_back(node);
            }
            Step::Adopt => self.adopted(node, refusal),
            _ => {}
        }
    }

    fn hand_over_decided(&mut self, node: usize, refusal: Option<&Refusal>) {
        let handing = &self.daemon(node).handing;
        let (way, calm) = (handing.way, handing.calm.clone());
        let Some(refusal) = refusal else {
            self.report.handed[0] += 1;
            let run = self.nodes[node].run;
            return self.clock.after(way.gap, Happening::HandOver(HandOver::Next { node, run }));
        };
        // Handlers may take their time, and are waited for.
        // Under A and B the peer may be many epochs ahead of the disk here, which is at work all the time then.
        let works = self.nodes[node].daemon.as_ref().is_some_and(|d| !d.jobs.is_empty());
        let behind = self.setup.net.protocol != Protocol::C && works && refusal.info.contains("of the peer");
        let excused = way.within_ms < ENOUGH_MS || behind || refusal.info.contains("handler");
        if calm.is_some_and(|calm| self.is_still(&calm)) && !excused {
            self.fail("hand-over", format!("n{node} does not hand its session over at rest: {refusal}"));
            return;
        }
        self.stays(node);
        self.wants_role_back(node);
    }

    /// Everything is read again.
    fn stays(&mut self, node: usize) {
        let daemon = self.daemon(node);
        daemon.handing.stage = Stage::Staying;
        let places: Vec<(usize, usize)> =
            daemon.sockets.values().map(|endpoint| (endpoint.connection, endpoint.side)).collect();
        for (connection, side) in places {
            self.clock.after(0, Happening::Deliver { connection, side: 1 - side });
        }
    }

    /// Users wait for the node to be Primary again.
    fn wants_role_back(&mut self, node: usize) {
        if !self.nodes[node].wants_connected {
            // Somebody parts the nodes, and fencing may have it wait for ever.
            self.forget_held(node);
        }
        let waits = self.nodes[node].held.is_some();
        let daemon = self.daemon(node);
        if waits {
            daemon.script.push_front(Step::ResumePrimary);
        } else if daemon.handing.was_primary {
            daemon.script.push_front(Step::Primary { force: false });
        }
    }

    // ---- the next daemon ----

    fn next_daemon(&mut self, node: usize) {
        if self.daemon(node).handing.way.fails {
            self.note(Some(node), "next", format_args!("cannot be started"));
            let daemon = self.daemon(node);
            daemon.handing.stage = Stage::Coming;
            daemon.script.push_front(Step::TakeBack);
            return self.advance(node);
        }
        let attached: Vec<usize> = (0..self.sizes.len())
            .filter(|&v| self.claims(node, v).is_some_and(|c| c.disk != DiskState::Diskless))
            .collect();
        let Some(old) = self.nodes[node].daemon.take() else { return };
        self.note(Some(node), "next", format_args!("daemon"));
        if !old.jobs.is_empty() || !old.asked.is_empty() || old.payloads.in_use() > 0 {
            self.fail("hand-over", format!("n{node} handed its session over with something under way"));
            return;
        }
        self.agreement.is_over(node);
        self.nodes[node].run += 1;
        let mut daemon = self.fresh_daemon(node);
        daemon.next_socket = old.next_socket;
        daemon.next_ticket = old.next_ticket;
        daemon.handing = Handing { stage: Stage::Coming, ..old.handing };
        let volumes = self.sizes.len();
        daemon.script.extend((0..volumes).map(Step::NewMinor));
        let attaches = attached.into_iter().map(|volume| Step::Attach { volume, recovery: true });
        daemon.script.extend([Step::NewPeer, Step::NewPath]);
        daemon.script.extend((0..volumes).map(Step::PeerDeviceOptions));
        daemon.script.extend(attaches);
        daemon.script.push_back(Step::Adopt);
        daemon.script.extend(old.script);
        for (number, endpoint) in old.sockets {
            let given = daemon.handing.given.as_ref();
            let stream = match given {
                Some(given) if given.data.0 == number => Stream::Data,
                Some(given) if given.control.0 == number => Stream::Control,
                _ => {
                    self.end_side(endpoint.connection, endpoint.side, true);
                    continue;
                }
            };
            let link = &mut self.network.connections[endpoint.connection];
            link.parties[endpoint.side].run = self.nodes[node].run;
            // The next daemon counts what it sends itself.
            link.flows[endpoint.side].packets = 0;
            link.flows[endpoint.side].unsent.clear();
            let mut endpoint = as_bytes(endpoint, stream);
            if self.limits.bug == Some(Bug::UnreadForgotten) {
                endpoint.input.clear();
            }
            daemon.sockets.insert(number, endpoint);
        }
        self.nodes[node].daemon = Some(daemon);
        self.tell_foreign(node);
        self.advance(node);
    }

    fn adopt_request(&mut self, node: usize) -> Option<AdminRequest> {
        let daemon = self.daemon(node);
        let given = daemon.handing.given.as_ref()?;
        let (data, control) = (given.data, given.control);
        if !(daemon.sockets.contains_key(&data.0) && daemon.sockets.contains_key(&control.0)) {
            self.connect_instead(node);
            return None;
        }
        let state = match SessionState::decode(&given.state) {
            Ok(state) => Box::new(state),
            Err(text) => {
                self.fail("hand-over", text);
                return None;
            }
        };
        Some(AdminRequest::AdoptSession { peer: NodeId(1 - node as u8), data, control, state })
    }

    fn adopted(&mut self, node: usize, refusal: Option<&Refusal>) {
        let now = self.clock.now();
        let calm = self.daemon(node).handing.calm.clone();
        let calm = calm.filter(|calm| self.is_still(calm) && now <= calm.since + AWAY);
        if let Some(refusal) = refusal {
            if calm.is_some() {
                self.fail("hand-over", format!("n{node} does not go on with its session: {refusal}"));
            }
            return self.connect_instead(node);
        }
        self.report.handed[1] += 1;
        let Some(given) = self.daemon(node).handing.given.take() else { return };
        for socket in [given.data, given.control] {
            if !self.daemon(node).sockets.contains_key(&socket.0) {
                self.post(node, 0, Event::SocketLost { socket, why: SocketLoss::EndOfStream });
            }
        }
        self.stays(node);
        self.wants_role_back(node);
        if let Some(calm) = calm {
            let run = self.nodes[node].run;
            self.clock.after(3 * SECOND / 2, Happening::HandOver(HandOver::Look { node, run, calm }));
        }
    }

    /// The session is lost.
    fn connect_instead(&mut self, node: usize) {
        let Some(given) = self.daemon(node).handing.given.take() else { return };
        for socket in [given.data, given.control] {
            self.close(node, socket);
        }
        self.stays(node);
        self.wants_role_back(node);
        if self.nodes[node].wants_connected {
            self.daemon(node).script.push_front(Step::Connect { discard: false });
        }
    }

    /// Nothing disturbed it: everything is as it was.
    fn look_at_peer(&mut self, node: usize, calm: &Calm) {
        if !self.is_still(calm) {
            return;
        }
        self.report.handed[2] += 1;
        // Load alone has a Primary pull ahead, and come back by a resync, where that is configured.
        let pulls_ahead = self.setup.net.on_congestion == OnCongestion::PullAhead;
        let as_before = (0..self.sizes.len()).all(|v| {
            (0..2).all(|n| {
                self.claims(n, v).is_some_and(|c| {
                    let connected = c.connection == ConnectionState::Connected;
                    let goes_on = c.replication == ReplicationState::Established
                        || pulls_ahead && c.replication != ReplicationState::Off;
                    connected && goes_on
                })
            })
        });
        if !as_before || self.network.connections.len() != calm.links {
            let state = self.describe_claims();
            self.fail("hand-over", format!("the peer of n{node} noticed another daemon: {state}"));
        } else if self.all_generations() != calm.generations {
            self.fail("hand-over", format!("a generation began because n{node} got another daemon"));
        }
    }
}

/// A socket as the next daemon finds it: what was read and not used is handed over as bytes, and everything else about it
/// has to be said anew.
fn as_bytes(mut endpoint: Endpoint, stream: Stream) -> Endpoint {
    let mut front = Vec::new();
    if let Some((frame, missing, tags)) = endpoint.awaiting.take() {
        let bulk = frame.packet.bulk_bytes() as usize;
        let mut bytes = Vec::new();
        wire::encode_with_integrity(&frame, endpoint.version, endpoint.framer.integrity(), &mut bytes);
        front.push(Piece::Bytes(bytes));
        if bulk > missing {
            front.push(Piece::Bulk { tags, from: 0, to: bulk - missing });
        }
    } else if !endpoint.framer.unconsumed().is_empty() {
        front.push(Piece::Bytes(endpoint.framer.unconsumed().to_vec()));
    }
    for piece in front.into_iter().rev() {
        endpoint.input.push_front(piece);
    }
    endpoint.framer = Framer::new();
    endpoint.framer.set_stream(stream);
    Endpoint { version: 80, sends_digest: false, receives_digest: false, ..endpoint }
}
