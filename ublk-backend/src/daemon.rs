//! Putting the daemon together: run directory, log, data thread, journal, control socket; and taking it apart again.

use crate::administration::{checked_options, Administration, Sockets};
use crate::block_devices::BlockDevices;
use crate::control_socket::ControlSocket;
use crate::digest;
use crate::event_loop::DataLoop;
use crate::frontend::certificates::Certificates;
use crate::frontend::choice::{front_end, FrontEnd};
use crate::frontend::device_identity::Place;
use crate::frontend::nbd::Reach;
use crate::frontend::nbd_settings::{NbdSettings, Tls};
use crate::frontend::tls_worker::TlsWorker;
use crate::hand_over;
use crate::journal::Journal;
use crate::log::Logger;
use crate::mailbox::{mailbox, ControlPlane, DataPlane, HandedSession, ToControl, ToData};
use crate::role_mark::RoleMark;
use crate::role_recovery::take_up;
use crate::run_dir::RunDir;
use crate::service;
use drbd_core::config::{OptionSet, Section};
use drbd_core::control::{Configuration, Request};
use drbd_core::engine::{Level, Resource};
use drbd_core::ids::NodeId;
use drbd_core::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{signal, SignalKind};

/// So long a daemon that ends may keep its port: a little longer than its sockets linger.
const PORT_PATIENCE: Duration = Duration::from_millis(2500);
/// So long clients wait for the role of a daemon that died to be taken up again. A handler may ask us something then.
const ROLE_PATIENCE: Duration = Duration::from_secs(1);

/// Serves the resource until it is taken down. The error is a sentence.
pub(crate) fn run(resource: &str, node: NodeId, options: &str, recover: bool) -> Result<(), String> {
    if resource.is_empty() || resource.contains('/') || resource.starts_with('.') {
        return Err(format!("'{resource}' cannot be the name of a resource."));
    }
    let options: OptionSet =
        serde_json::from_str(options).map_err(|e| format!("--options is not an object of options: {e}."))?;
    let options = checked_options(&options, Section::Resource).map_err(|refusal| refusal.info)?;
    let run_dir = RunDir::open(&RunDir::path_for_this_user()?)?;
    let taken_up = hand_over::take_up()?;
    let (listener, predecessor, session) = match taken_up {
        Some(taken_up) => (taken_up.listener, Some(taken_up.daemon), taken_up.session),
        None => (bind_control_socket(&run_dir, resource)?, None, None),
    };
    // Before there is another thread: each has what the one had that started it.
    let memory = crate::process::serve_memory_reclaim();
    let file_failed = |what: &str, e: &std::io::Error| format!("the {what} cannot be opened: {e}.");
    let logger =
        Logger::open(&run_dir.file(&format!("{resource}.log"))).map_err(|e| file_failed("log", &e))?;
    let journal_path = run_dir.journal(resource);
    let (journal, requests) = if recover {
        Journal::recover(&journal_path)
    } else {
        Journal::create(&journal_path).map(|journal| (journal, Vec::new()))
    }
    .map_err(|e| file_failed("journal", &e))?;
    let mut fresh = FreshJournal((!recover).then_some(journal_path));
    abort_on_panic(resource, &logger);
    write_pid(&run_dir, resource);
    let (data, control, from_data) = mailbox().map_err(|e| file_failed("eventfd", &e))?;
    for sentence in memory {
        logger.say(Level::Info, "memory", resource, sentence);
    }
    let mut engine = Resource::new(resource, node, (&options).into(), digest::seed());
    if let Some(version) = newest_protocol()? {
        engine.cap_protocol(version);
    }
    let role = RoleMark::at(run_dir.file(&format!("{resource}.primary")));
    let was_primary = recover && role.is_set();
    role.set(was_primary);
    let devices = block_devices(resource, &run_dir, role, &data, &logger)?;
    let settings = NbdSettings::of(resource)?;
    let reach = match reach(resource, &settings, &data, &logger) {
        // A daemon that died comes back without what it cannot have now: the peer and this host's users wait for it.
        Err(sentence) if recover => {
            let text = format!("The NBD server is not to be reached by TCP and TLS: {sentence}");
            logger.say(Level::Error, "nbd-listen", resource, text);
            Reach { resource: resource.to_owned(), ..Reach::default() }
        }
        reach => reach?,
    };
    let thread = start_data_plane(engine, resource, control, logger.clone(), reach)?;
    logger.say(
        Level::Info,
        "start",
        resource,
        match predecessor {
            Some(predecessor) => format!("{} serves node {node} after {predecessor}.", crate::VERSION),
            None => format!("{} serves node {node}.", crate::VERSION),
        },
    );
    let (volumes, connections) = (Vec::new(), Vec::new());
    let facts = Configuration { resource: resource.to_owned(), node_id: node, options, volumes, connections };
    let control_socket = listener.try_clone().map_err(|e| file_failed("control socket", &e))?;
    let sockets = Sockets { control: control_socket, access: settings.socket };
    let (to_data, log) = (data.clone(), logger.clone());
    let administration = Administration::new(facts, run_dir, to_data, log, journal, devices, sockets);
    let control = async {
        let administration = Rc::new(administration);
        administration.follow_auto_promote();
        let socket = ControlSocket::new(Rc::clone(&administration));
        let mut listening = tokio::task::spawn_local(Rc::clone(&socket).listen_to_data(from_data));
        if was_primary {
            // Who comes meanwhile waits until it is known whether this node is Primary again.
            administration.data.send(ToData::Hold(Some(tokio::sync::oneshot::channel().0)));
        }
        replay(&administration, requests, session).await;
        // Who asks meanwhile waits: what he would be told is not what it is in a moment.
        let taking_up = tokio::task::spawn_local(take_up(Rc::clone(&administration), was_primary));
        let _ = tokio::time::timeout(ROLE_PATIENCE, taking_up).await;
        let listener =
            tokio::net::UnixListener::from_std(listener).map_err(|e| format!("control socket: {e}."))?;
        let serving = tokio::task::spawn_local(socket.serve(listener));
        fresh.keep();
        service::tell("READY=1");
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("signals: {e}."))?;
        let outcome = tokio::select! {
            () = administration.ended.notified() => Ok(()),
            _ = terminate.recv() => Ok(()),
            why = &mut listening => Err(why.unwrap_or_else(|_| "the control plane failed.".to_owned())),
        };
        // The last reply is on its way to who asked for the end.
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        serving.abort();
        outcome
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the control plane cannot start: {e}."))?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, control);
    data.send(ToData::Stop);
    let _ = thread.join();
    logger.say(Level::Info, "end", resource, "The daemon ends.");
    logger.finish();
    outcome
}

/// The journal of a daemon that never came to serve goes with it: there is nothing in it to recover.
struct FreshJournal(Option<PathBuf>);

impl FreshJournal {
    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for FreshJournal {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_control_socket(run_dir: &RunDir, resource: &str) -> Result<UnixListener, String> {
    run_dir.bind(&format!("{resource}.sock")).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => "a daemon of this resource is running already.".to_owned(),
        _ => format!("the control socket {} cannot be made: {e}.", run_dir.file(resource).display()),
    })
}

/// Block devices as the host and its administrator want them.
fn block_devices(
    resource: &str,
    run_dir: &RunDir,
    role: RoleMark,
    data: &DataPlane,
    logger: &Logger,
) -> Result<BlockDevices, String> {
    let kernel = match front_end(resource)? {
        FrontEnd::BlockDevice(kernel) => Place::of(&run_dir.file(".")).ok().map(|place| (kernel, place)),
        FrontEnd::Socket(why) => {
            if let Some(why) = why {
                let text = format!("There are no block devices, only sockets: {why}.");
                logger.say(Level::Warning, "block-device", resource, text);
            }
            None
        }
    };
    Ok(BlockDevices::new(resource, kernel, data.clone(), logger.clone(), role))
}

/// The port and TLS of the NBD server.
fn reach(resource: &str, settings: &NbdSettings, data: &DataPlane, logger: &Logger) -> Result<Reach, String> {
    let port = settings.listen.map(|address| {
        let listening = bind_soon(address)
            .and_then(|port| port.set_nonblocking(true).map(|()| port))
            .map_err(|e| format!("the NBD server cannot listen at {address} (UDRBD_NBD_LISTEN): {e}."))?;
        let text = format!("The NBD server listens at {address}.");
        logger.say(Level::Info, "nbd-listen", resource, text);
        Ok::<_, String>(listening)
    });
    let port = port.transpose()?;
    let certificates = settings.certificates.clone().filter(|_| settings.tls != Tls::Off);
    let worker = certificates
        .map(|dir| TlsWorker::start(Certificates(dir), resource, data.clone(), logger.clone()))
        .transpose()?;
    if settings.is_open_to_all() {
        let text = "Whoever reaches the NBD server's port may read and write the volumes without TLS \
                    (UDRBD_NBD_TLS is not require).";
        logger.say(Level::Warning, "nbd-open", resource, text);
    }
    Ok(Reach { resource: resource.to_owned(), port, tls: settings.tls, worker })
}

/// A daemon that was taken down a moment ago may still be saying good-bye to its peer, and have the port.
fn bind_soon(address: SocketAddr) -> std::io::Result<TcpListener> {
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            bound => return bound,
        }
    }
}

/// Takes up what the last daemon was told. What cannot be done is logged; the rest goes on. A session that it gave away
/// goes on instead of a new connection.
async fn replay(
    administration: &Rc<Administration>,
    requests: Vec<Request>,
    session: Option<Result<HandedSession, String>>,
) {
    let mut session =
        session.and_then(|session| session.inspect_err(|why| say_not_adopted(administration, why)).ok());
    for request in requests {
        let of_session =
            session.take_if(|s| matches!(&request, Request::Connect { peer, .. } if *peer == s.state.peer));
        if let Some(session) = of_session {
            match administration.adopt_session(session).await {
                Ok(()) => continue,
                Err(refusal) => say_not_adopted(administration, &refusal.to_string()),
            }
        }
        let what = serde_json::to_string(&request).unwrap_or_default();
        if let Err(refusal) = administration.carry_out(request, true).await {
            let text = format!("{what} of the journal cannot be repeated: {refusal}");
            administration.logger.say(Level::Error, "replay", &administration.resource, text);
        }
    }
}

fn say_not_adopted(administration: &Administration, why: &str) {
    let text = format!("The last daemon's session ends, and the peer is connected to anew: {why}");
    administration.logger.say(Level::Warning, "upgrade", &administration.resource, text);
}

fn start_data_plane(
    engine: Resource,
    resource: &str,
    control: ControlPlane,
    logger: Logger,
    reach: Reach,
) -> Result<JoinHandle<()>, String> {
    let name = resource.to_owned();
    let (started, wait) = std::sync::mpsc::channel();
    let body = move || {
        crate::process::serve_without_administration();
        let mut data = match DataLoop::new(engine, &name, control, logger, reach) {
            Ok(data) => data,
            Err(e) => {
                let _ = started.send(Err(format!("the data plane cannot start: {e}.")));
                return;
            }
        };
        let _ = started.send(Ok(()));
        if let Err(e) = data.run() {
            data.tell(ToControl::Failed(format!("the data plane failed: {e}.")));
        }
    };
    let thread = std::thread::Builder::new()
        .name("data".to_owned())
        .spawn(body)
        .map_err(|e| format!("the data thread cannot start: {e}."))?;
    wait.recv().map_err(|_| "the data thread died at once.".to_owned())??;
    Ok(thread)
}

/// Our own bug is the end of the process: the peers keep the data, the supervisor starts afresh.
fn abort_on_panic(resource: &str, logger: &Logger) {
    let (resource, logger) = (resource.to_owned(), logger.clone());
    std::panic::set_hook(Box::new(move |panic| {
        let text = format!("This is a bug of udrbd: {panic}");
        logger.say(Level::Error, "bug", &resource, text.replace('\n', " "));
        logger.finish();
        std::process::abort();
    }));
}

/// So that an administrator or a script finds the process.
fn write_pid(run_dir: &RunDir, resource: &str) {
    if let Ok(mut file) = std::fs::File::create(run_dir.file(&format!("{resource}.pid"))) {
        let _ = writeln!(file, "{}", std::process::id());
    }
}

/// UDRBD_PROTOCOL_MAX: no newer version of the protocol is offered to peers.
fn newest_protocol() -> Result<Option<u32>, String> {
    let Some(value) = std::env::var_os("UDRBD_PROTOCOL_MAX").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let versions = PROTOCOL_MIN..=PROTOCOL_MAX;
    match value.to_str().and_then(|v| v.parse().ok()) {
        Some(version) if versions.contains(&version) => Ok(Some(version)),
        _ => Err(format!(
            "UDRBD_PROTOCOL_MAX is {value:?}; it has to be a protocol version from {PROTOCOL_MIN} to {PROTOCOL_MAX}, or not set."
        )),
    }
}
