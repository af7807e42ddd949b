//! Requests of administrators: checked against the option table, given what the engine cannot get itself (open disks,
//! sockets, claims), asked, and remembered when they were accepted.
//!
//! What was accepted is kept twice: as facts for `show` and for handlers, and in the journal.

use crate::auto_promotion;
use crate::block_devices::BlockDevices;
use crate::disk;
use crate::frontend::block_driver::BlockLimits;
use crate::frontend::nbd_settings::SocketAccess;
use crate::hand_over::become_program;
use crate::journal::Journal;
use crate::log::Logger;
use crate::mailbox::{Brings, DataPlane, HandedSession, ToData};
use crate::resync_dependencies::{resync_after, ResyncDependencies};
use crate::run_dir::{nbd_name, ClaimError, RunDir};
use drbd_core::config::{OptionSet, OptionSpec, Section};
use drbd_core::control::{
    Configuration, ConnectionConfiguration, DiskConfiguration, Done, GenerationStatus, Request,
    ResourceStatus, VolumeConfiguration,
};
use drbd_core::engine::{AdminRequest, AttachRequest, Level};
use drbd_core::ids::{Minor, NodeId, Sector, SocketId, Ticket, VolumeNumber};
use drbd_core::refusal::{Reason, Refusal};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, Notify};

mod for_engine;

/// So long a disk may be held that a daemon had which was killed: by what it had under way there.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// What the data plane answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To a request for the engine.
    Reply(Result<Box<Done>, Box<Refusal>>),
    /// The present state.
    Status(Box<ResourceStatus>),
    /// A generation.
    Generation(Option<Box<GenerationStatus>>),
}

/// What clients connect to.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The control socket, listening.
    pub(crate) control: UnixListener,
    /// Who may open those of the volumes.
    pub(crate) access: SocketAccess,
}

/// The control plane's memory.
#[derive(Debug)]
pub(crate) struct Administration {
    pub(crate) resource: String,
    pub(crate) run_dir: Rc<RunDir>,
    pub(crate) data: DataPlane,
    pub(crate) logger: Logger,
    pub(crate) facts: RefCell<Configuration>,
    pub(crate) devices: BlockDevices,
    pub(crate) sockets: Sockets,
    journal: RefCell<Journal>,
    dependencies: ResyncDependencies,
    waiting: RefCell<BTreeMap<u32, oneshot::Sender<Answer>>>,
    next_ticket: Cell<u32>,
    /// The resource is gone: the process ends.
    pub(crate) ended: Notify,
    /// This process is about to be another program: nothing is changed any more.
    pub(crate) becoming: Cell<bool>,
    /// Who waits for the session that is given away for another program.
    session_taker: RefCell<Option<oneshot::Sender<Option<Box<HandedSession>>>>>,
}

impl Administration {
    /// Nothing configured yet.
    pub(crate) fn new(
        facts: Configuration,
        run_dir: RunDir,
        data: DataPlane,
        logger: Logger,
        journal: Journal,
        devices: BlockDevices,
        sockets: Sockets,
    ) -> Administration {
        let run_dir = Rc::new(run_dir);
        let dependencies = ResyncDependencies::new(Rc::clone(&run_dir), data.clone());
        Administration {
            resource: facts.resource.clone(),
            run_dir,
            data,
            dependencies,
            logger,
            facts: RefCell::new(facts),
            devices,
            sockets,
            journal: RefCell::new(journal),
            waiting: RefCell::default(),
            next_ticket: Cell::new(1),
            ended: Notify::new(),
            becoming: Cell::new(false),
            session_taker: RefCell::default(),
        }
    }

    /// Hands the data plane's answer to who waits for it.
    pub(crate) fn answered(&self, ticket: Ticket, answer: Answer) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&ticket.0) {
            let _ = waiting.send(answer);
        }
    }

    /// The data plane is gone: whoever waits is told.
    pub(crate) fn give_up(&self) {
        self.waiting.borrow_mut().clear();
    }

    /// The next ticket and its answer.
    pub(crate) fn ticket(&self) -> (Ticket, oneshot::Receiver<Answer>) {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket.wrapping_add(1));
        let (answer, waiting) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, answer);
        (Ticket(ticket), waiting)
    }

    /// A session was given away, or lost.
    pub(crate) fn handed_over(&self, session: Option<Box<HandedSession>>) {
        if let Some(taker) = self.session_taker.take() {
            let _ = taker.send(session);
        }
    }

    /// Gives the session away, once it is at rest. `None`: its sockets did not come to rest in that time, or were lost.
    pub(crate) async fn give_session(&self, within: Duration) -> Result<Option<Box<HandedSession>>, Refusal> {
        let (taker, given) = oneshot::channel();
        self.session_taker.replace(Some(taker));
        self.ask_engine(AdminRequest::HandOver { within_ms: within.as_millis() as u64 }).await?;
        let given = tokio::time::timeout(within, given).await;
        Ok(given.ok().and_then(Result::ok).flatten())
    }

    /// Goes on with a session that another program gave away.
    pub(crate) async fn adopt_session(&self, session: HandedSession) -> Result<(), Refusal> {
        let HandedSession { state, sockets } = session;
        let peer = state.peer;
        let none = SocketId::default();
        let request = AdminRequest::AdoptSession { peer, data: none, control: none, state };
        self.ask(request, Brings::Sockets(Box::new(sockets))).await?;
        self.remember(Request::Connect { peer, tentative: false, discard_my_data: false });
        Ok(())
    }

    /// Asks the engine for something that brings nothing.
    pub(crate) async fn ask_engine(&self, request: AdminRequest) -> Result<Box<Done>, Refusal> {
        self.ask(request, Brings::Nothing).await
    }

    async fn ask(&self, request: AdminRequest, brings: Brings) -> Result<Box<Done>, Refusal> {
        let (ticket, answer) = self.ticket();
        self.data.send(ToData::Admin { ticket, request: Box::new(request), brings });
        match answer.await {
            Ok(Answer::Reply(result)) => result.map_err(|refusal| *refusal),
            Ok(Answer::Status(_) | Answer::Generation(_)) | Err(_) => Err(going_down()),
        }
    }

    /// Asks to be Primary again where the last daemon died as Primary.
    pub(crate) async fn resume_primary(&self) -> Result<(), Refusal> {
        let result = self.ask(AdminRequest::ResumePrimary, Brings::Nothing).await;
        // The devices are told of a role before those who use them.
        let facts = self.facts.borrow().clone();
        self.devices.after(&Request::Primary { force: false }, &facts, result.is_ok()).await;
        result.map(|_| ())
    }

    /// The present state.
    pub(crate) async fn status(&self) -> Result<Box<ResourceStatus>, Refusal> {
        let (ticket, answer) = self.ticket();
        self.data.send(ToData::Status { ticket });
        match answer.await {
            Ok(Answer::Status(mut status)) => {
                for device in &mut status.devices {
                    device.waiting_size = self.devices.waiting_size(device.volume).map(|size| size.0 / 2);
                }
                Ok(status)
            }
            Ok(Answer::Reply(_) | Answer::Generation(_)) | Err(_) => Err(going_down()),
        }
    }

    async fn generation(&self, peer: NodeId, volume: VolumeNumber) -> Result<GenerationStatus, Refusal> {
        let (ticket, answer) = self.ticket();
        self.data.send(ToData::Generation { ticket, peer, volume });
        match answer.await {
            Ok(Answer::Generation(Some(generation))) => Ok(*generation),
            Ok(Answer::Generation(None)) => Err(Reason::NoDisk.into()),
            Ok(Answer::Reply(_) | Answer::Status(_)) | Err(_) => Err(going_down()),
        }
    }

    /// Carries a request out and remembers it. `recovery`: it comes from the journal.
    pub(crate) async fn carry_out(&self, request: Request, recovery: bool) -> Result<Done, Refusal> {
        let request = checked(request)?;
        if let Some(answer) = self.query(&request).await {
            return answer;
        }
        if self.becoming.get() {
            let info = "the daemon is becoming another program; ask that one in a moment";
            return Err(Refusal::because(Reason::InTransientState, info));
        }
        let facts = self.facts.borrow().clone();
        self.devices.before(&request, &facts).await?;
        let result = self.change(&request, recovery).await;
        self.devices.after(&request, &facts, result.is_ok()).await;
        if result.is_ok() {
            if !recovery {
                self.note(&request);
            }
            self.remember(request);
            self.follow_auto_promote();
        }
        self.dependencies.follow(&self.facts.borrow());
        result
    }

    /// Tells the data plane and the devices what the resource's options say of it now.
    pub(crate) fn follow_auto_promote(&self) {
        let on = auto_promotion::is_on(&self.facts.borrow().options);
        if self.devices.set_auto_promote(on) {
            self.data.send(ToData::AutoPromote(on));
        }
    }

    /// Requests that change nothing.
    async fn query(&self, request: &Request) -> Option<Result<Done, Refusal>> {
        let answer = match request {
            Request::Status => {
                self.status().await.map(|status| Done { status: Some(*status), ..Done::default() })
            }
            Request::Show => self.show().await,
            Request::GetGi { peer, volume } => self
                .generation(*peer, *volume)
                .await
                .map(|generation| Done { generation: Some(generation), ..Done::default() }),
            Request::Subscribe => Ok(Done::default()),
            _ => return None,
        };
        Some(answer)
    }

    async fn show(&self) -> Result<Done, Refusal> {
        let status = self.status().await?;
        let mut configuration = self.facts.borrow().clone();
        for known in &mut configuration.connections {
            let of_peer = |c: &&drbd_core::control::ConnectionStatus| c.connection.peer_node_id == known.peer;
            if let Some(connection) = status.connections.iter().find(of_peer) {
                known.connection = connection.connection.connection;
            }
        }
        Ok(Done { configuration: Some(configuration), ..Done::default() })
    }

    async fn change(&self, request: &Request, recovery: bool) -> Result<Done, Refusal> {
        let engine_request = match request {
            Request::NewMinor { minor, volume, options } => {
                let done = self.new_minor(*minor, *volume, options).await?;
                self.devices.attach(*minor, *volume, recovery).await;
                return Ok(done);
            }
            Request::Attach { minor, disk, meta_disk, meta_index, options } => {
                self.depend(*minor, options, recovery).await?;
                return self.attach(*minor, [disk, meta_disk, meta_index], options, recovery).await;
            }
            Request::DelResource => return self.del_resource(),
            Request::Down => return self.down().await,
            Request::Upgrade { program } => match become_program(self, program).await? {},
            Request::DiskOptions { minor, options, .. } => {
                self.depend(*minor, options, recovery).await?;
                self.for_engine(request)?
            }
            _ => self.for_engine(request)?,
        };
        Ok(*self.ask(engine_request, Brings::Nothing).await?)
    }

    async fn new_minor(
        &self,
        minor: Minor,
        volume: VolumeNumber,
        options: &OptionSet,
    ) -> Result<Done, Refusal> {
        if self.facts.borrow().volumes.iter().any(|v| v.minor == minor || v.volume == volume) {
            return Err(Reason::MinorOrVolumeExists.into());
        }
        self.run_dir.claim(minor, &self.resource).map_err(|e| match e {
            ClaimError::Held(holder) => Refusal::because(
                Reason::MinorOrVolumeExists,
                format!("minor {minor} is in use by resource {holder}"),
            ),
            ClaimError::Failed(e) => {
                Refusal::because(Reason::InvalidRequest, format!("minor {minor} cannot be claimed: {e}"))
            }
        })?;
        let result = self.new_claimed_minor(minor, volume, options).await;
        if result.is_err() {
            self.run_dir.unclaim(minor);
            self.run_dir.remove(&nbd_name(&self.resource, volume));
        }
        result
    }

    async fn new_claimed_minor(
        &self,
        minor: Minor,
        volume: VolumeNumber,
        options: &OptionSet,
    ) -> Result<Done, Refusal> {
        let name = nbd_name(&self.resource, volume);
        let path = self.run_dir.file(&name);
        let bound = self.run_dir.bind_anew(&name).and_then(|listener| {
            self.sockets.access.apply(&path)?;
            Ok(listener)
        });
        let listener = bound.map_err(|e| {
            Refusal::because(
                Reason::InvalidRequest,
                format!("the socket {} cannot be made: {e}", path.display()),
            )
        })?;
        let request = AdminRequest::NewMinor { minor, volume, options: options.into() };
        Ok(*self.ask(request, Brings::Export(volume, listener)).await?)
    }

    /// Whether a disk may have these options, for what they say of volumes of other resources.
    async fn depend(&self, minor: Minor, options: &OptionSet, recovery: bool) -> Result<(), Refusal> {
        let Some(after) = resync_after(options) else { return Ok(()) };
        let own = self.facts.borrow().clone();
        let is_own = own.volumes.iter().any(|v| v.minor == after);
        // What a daemon starts again with was accepted before.
        if !recovery {
            self.dependencies.check(own, minor, after).await?;
        }
        if !is_own {
            self.dependencies.look_at(after).await;
        }
        Ok(())
    }

    async fn attach(
        &self,
        minor: Minor,
        [backing, meta_disk, meta_index]: [&String; 3],
        options: &OptionSet,
        recovery: bool,
    ) -> Result<Done, Refusal> {
        let volume = {
            let facts = self.facts.borrow();
            let known = volume(&facts, minor)?;
            if known.disk.is_some() {
                return Err(Reason::DiskConfigured.into());
            }
            known.volume
        };
        let names = (backing.clone(), meta_disk.clone(), meta_index.clone());
        // Reading the bitmap takes its time; everyone else is served meanwhile.
        let last_known = recovery.then(|| disk::last_known_bytes(minor, backing)).flatten();
        let open = move || disk::open(&names.0, &names.1, &names.2, last_known);
        let until = Instant::now() + if recovery { DISK_PATIENCE } else { Duration::ZERO };
        let opened = loop {
            match tokio::task::spawn_blocking(open.clone()).await.map_err(|_| going_down())? {
                Err(refusal) if is_claimed(refusal.reason) && Instant::now() < until => {
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                opened => break opened?,
            }
        };
        let limits = BlockLimits {
            logical_block_bytes: opened.limits.logical_block_size,
            physical_block_bytes: opened.limits.physical_block_size,
            discard_granularity: opened.limits.discard_granularity,
        };
        self.devices.limits(volume, limits);
        let request = AdminRequest::Attach(AttachRequest {
            volume,
            backing_dev: backing.clone(),
            disk: opened.limits,
            metadata: opened.loaded,
            index: opened.index,
            place: opened.disk.place,
            options: options.into(),
            recovery,
        });
        Ok(*self.ask(request, Brings::Disk(volume, Box::new(opened.disk))).await?)
    }

    fn del_resource(&self) -> Result<Done, Refusal> {
        if !self.facts.borrow().volumes.is_empty() {
            return Err(Reason::ResourceInUse.into());
        }
        if !self.facts.borrow().connections.is_empty() {
            let info = "there are connections left; delete them first (del-peer), or use down";
            return Err(Refusal::because(Reason::ResourceInUse, info));
        }
        self.clean_up();
        Ok(Done { changed: true, ..Done::default() })
    }

    async fn down(&self) -> Result<Done, Refusal> {
        let done = self.ask(AdminRequest::Down, Brings::Nothing).await?;
        self.devices.detach_all().await;
        self.clean_up();
        Ok(*done)
    }

    /// Removes every trace of the resource from the run directory.
    fn clean_up(&self) {
        for volume in &self.facts.borrow().volumes {
            self.run_dir.unclaim(volume.minor);
            self.run_dir.remove(&nbd_name(&self.resource, volume.volume));
        }
        self.run_dir.remove(&format!("{}.sock", self.resource));
        self.run_dir.remove(&format!("{}.pid", self.resource));
        self.journal.borrow().remove();
        self.ended.notify_one();
    }

    /// A disk was let go, asked for or not: a restarted daemon does not take it up again.
    pub(crate) fn disk_closed(&self, volume: VolumeNumber) {
        let minor = {
            let mut facts = self.facts.borrow_mut();
            let Some(known) = facts.volumes.iter_mut().find(|v| v.volume == volume && v.disk.is_some())
            else {
                return;
            };
            known.disk = None;
            known.minor
        };
        self.dependencies.follow(&self.facts.borrow());
        self.note(&Request::Detach { minor, force: true, diskless: false });
    }

    fn note(&self, request: &Request) {
        if let Err(e) = self.journal.borrow_mut().append(request) {
            let text =
                format!("The journal cannot be written ({e}): a restarted daemon would not know of this.");
            self.logger.say(Level::Warning, "journal", &self.resource, text);
        }
    }

    /// The peer's administrator changed net options that both nodes must have alike: as if it had been asked here.
    pub(crate) fn settings_adopted(&self, peer: NodeId, options: OptionSet) {
        let request = Request::NetOptions { peer, options, set_defaults: false };
        self.note(&request);
        self.remember(request);
    }

    /// A size was asked for, here or at the peer: as if the disk had been attached with it.
    pub(crate) fn size_adopted(&self, volume: VolumeNumber, size: Sector) {
        let minor = self.facts.borrow().volumes.iter().find(|v| v.volume == volume).map(|v| v.minor);
        let (Some(minor), Some(spec)) = (minor, OptionSpec::find("size")) else { return };
        let mut options = OptionSet::default();
        // In sectors, as the table has it; 0 is what an option that was never given means.
        if options.set(spec, &format!("{}s", size.0)).is_ok() {
            let request = Request::DiskOptions { minor, options, set_defaults: false };
            self.note(&request);
            self.remember(request);
        }
    }

    /// Keeps the facts of an accepted request.
    fn remember(&self, request: Request) {
        let mut facts = self.facts.borrow_mut();
        match request {
            Request::NewMinor { minor, volume, options } => {
                facts.volumes.push(VolumeConfiguration {
                    volume,
                    minor,
                    device_options: options,
                    disk: None,
                });
            }
            Request::DelMinor { minor } => {
                if let Ok(volume) = volume_of(&facts, minor) {
                    self.run_dir.unclaim(minor);
                    self.run_dir.remove(&nbd_name(&self.resource, volume));
                    facts.volumes.retain(|v| v.minor != minor);
                }
            }
            Request::NewPeer { peer, options } => {
                if facts.connections.iter().all(|c| c.peer != peer) {
                    let connection = drbd_core::states::ConnectionState::StandAlone;
                    let (paths, volumes) = (Vec::new(), Vec::new());
                    facts.connections.push(ConnectionConfiguration {
                        peer,
                        paths,
                        connection,
                        options,
                        volumes,
                    });
                }
            }
            Request::DelPeer { peer, .. } => facts.connections.retain(|c| c.peer != peer),
            Request::NewPath { peer, local, remote } => {
                if let Some(known) = facts.connections.iter_mut().find(|c| c.peer == peer) {
                    known.paths.push((local, remote));
                }
            }
            Request::DelPath { peer, local, remote } => {
                if let Some(known) = facts.connections.iter_mut().find(|c| c.peer == peer) {
                    known.paths.retain(|(l, r)| (l, r) != (&local, &remote));
                }
            }
            Request::Attach { minor, disk, meta_disk, meta_index, options } => {
                if let Some(known) = facts.volumes.iter_mut().find(|v| v.minor == minor) {
                    let meta_disk = if meta_disk == "internal" { disk.clone() } else { meta_disk };
                    known.disk = Some(DiskConfiguration { disk, meta_disk, meta_index, options });
                }
            }
            Request::Detach { minor, .. } => {
                if let Some(known) = facts.volumes.iter_mut().find(|v| v.minor == minor) {
                    known.disk = None;
                }
            }
            Request::ResourceOptions { options, set_defaults } => facts.options.merge(&options, set_defaults),
            Request::NetOptions { peer, options, set_defaults } => {
                if let Some(known) = facts.connections.iter_mut().find(|c| c.peer == peer) {
                    known.options.merge(&options, set_defaults);
                }
            }
            Request::DiskOptions { minor, options, set_defaults } => {
                let known = facts.volumes.iter_mut().find(|v| v.minor == minor);
                if let Some(disk) = known.and_then(|v| v.disk.as_mut()) {
                    disk.options.merge(&options, set_defaults);
                }
            }
            Request::PeerDeviceOptions { peer, volume, options, set_defaults } => {
                if let Some(known) = facts.connections.iter_mut().find(|c| c.peer == peer) {
                    match known.volumes.iter_mut().find(|(v, _)| *v == volume) {
                        Some((_, set)) => set.merge(&options, set_defaults),
                        None => known.volumes.push((volume, options)),
                    }
                }
            }
            Request::Connect { .. }
            | Request::Disconnect { .. }
            | Request::Invalidate { .. }
            | Request::InvalidateRemote { .. }
            | Request::PauseSync { .. }
            | Request::ResumeSync { .. }
            | Request::Outdate { .. }
            | Request::NewCurrentUuid { .. }
            | Request::Verify { .. }
            | Request::Resize { .. }
            | Request::Primary { .. }
            | Request::Secondary { .. }
            | Request::SuspendIo { .. }
            | Request::ResumeIo { .. }
            | Request::Down
            | Request::DelResource
            | Request::Upgrade { .. }
            | Request::Status
            | Request::Show
            | Request::GetGi { .. }
            | Request::Subscribe => {}
        }
    }
}

fn is_claimed(reason: Reason) -> bool {
    matches!(reason, Reason::DiskClaimed | Reason::MetaDiskClaimed)
}

fn going_down() -> Refusal {
    Refusal::because(Reason::InterruptedBySignal, "the daemon is ending")
}

fn volume(facts: &Configuration, minor: Minor) -> Result<&VolumeConfiguration, Refusal> {
    facts.volumes.iter().find(|v| v.minor == minor).ok_or_else(|| Reason::MinorInvalid.into())
}

fn volume_of(facts: &Configuration, minor: Minor) -> Result<VolumeNumber, Refusal> {
    volume(facts, minor).map(|v| v.volume)
}

fn connection(facts: &Configuration, peer: NodeId) -> Result<&ConnectionConfiguration, Refusal> {
    facts.connections.iter().find(|c| c.peer == peer).ok_or_else(|| {
        Refusal::because(Reason::InvalidRequest, format!("there is no connection to node {peer}"))
    })
}

/// The request with its options brought into the table's form, or what is wrong with them.
fn checked(mut request: Request) -> Result<Request, Refusal> {
    let (section, options) = match &mut request {
        Request::NewMinor { options, .. } => (Section::Device, options),
        Request::NewPeer { options, .. } | Request::NetOptions { options, .. } => (Section::Net, options),
        Request::Attach { options, .. } | Request::DiskOptions { options, .. } => (Section::Disk, options),
        Request::ResourceOptions { options, .. } => (Section::Resource, options),
        Request::PeerDeviceOptions { options, .. } => (Section::PeerDevice, options),
        _ => return Ok(request),
    };
    *options = checked_options(options, section)?;
    Ok(request)
}

/// Options as the table knows them.
pub(crate) fn checked_options(options: &OptionSet, section: Section) -> Result<OptionSet, Refusal> {
    let mut checked = OptionSet::default();
    for (name, value) in options.iter() {
        // `bitmap` of a resource's disk section reaches attach as well; only towards a peer it means anything.
        if name == "bitmap" && section == Section::Disk {
            continue;
        }
        let spec = OptionSpec::find(name).filter(|spec| spec.section == section).ok_or_else(|| {
            Refusal::because(Reason::InvalidRequest, format!("there is no option '{name}' here"))
        })?;
        checked
            .set(spec, &value.to_string())
            .map_err(|e| Refusal::because(Reason::InvalidRequest, e.to_string()))?;
    }
    Ok(checked)
}
