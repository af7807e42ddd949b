//! A daemon that says what it is told to: a thread on a control socket in a run directory of its own.

use drbd_core::control::{
    ClientLine, DaemonHello, DaemonLine, Done, Notification, RefusedReply, Request, VERSION,
};
use drbd_core::refusal::Refusal;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A run directory that is removed at the end.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    remove: PathBuf,
}

static PLACES: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub(crate) fn new() -> Place {
        Place::below("")
    }

    /// One whose path goes on with `rest`.
    pub(crate) fn below(rest: &str) -> Place {
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let remove = std::env::temp_dir().join(format!("drbdsetup-test-{}-{number}", std::process::id()));
        let dir = remove.join(rest);
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        Place { dir, remove }
    }

    /// `drbdsetup WORDS` with this run directory.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drbdsetup"));
        command.args(words.split_whitespace()).env("UDRBD_RUN_DIR", &self.dir);
        command.env_remove("UDRBD_DAEMON");
        command
    }

    /// Runs `drbdsetup WORDS`: stdout, stderr, exit code.
    pub(crate) fn run(&self, words: &str) -> (String, String, i32) {
        said(&self.command(words).output().expect("drbdsetup runs"))
    }

    /// The minor belongs to the resource.
    pub(crate) fn claim(&self, minor: u32, resource: &str) {
        std::fs::write(self.dir.join(format!("minor-{minor}")), resource).expect("a claim can be written");
    }

    pub(crate) fn fake(
        &self,
        resource: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        Fake::serve(&self.dir, resource, hello(resource, VERSION), answer)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.remove);
    }
}

/// What a finished `drbdsetup` said.
pub(crate) fn said(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

/// What the fake does about a request.
pub(crate) enum Answer {
    Done(Box<Done>),
    Refused(RefusedReply),
    /// Done, then these.
    Notify(Vec<Notification>),
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    Hangup,
}

impl Answer {
    pub(crate) fn done() -> Answer {
        Answer::Done(Box::new(Done { changed: true, ..Done::default() }))
    }

    pub(crate) fn refused(refusal: &Refusal) -> Answer {
        Answer::Refused(RefusedReply::from(refusal))
    }
}

/// A listening fake; gone when dropped.
pub(crate) struct Fake {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

pub(crate) fn hello(resource: &str, version: u32) -> String {
    let hello = DaemonHello { version, daemon: "fake".to_owned(), resource: resource.to_owned() };
    line(&DaemonLine::Hello { hello })
}

fn line(line: &DaemonLine) -> String {
    serde_json::to_string(line).expect("it is JSON") + "\n"
}

impl Fake {
    pub(crate) fn serve(
        dir: &Path,
        resource: &str,
        hello: String,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let socket = dir.join(format!("{resource}.sock"));
        // By the working directory's descriptor, as the path may be long.
        let directory = std::fs::File::open(dir).expect("the run directory opens");
        let short = format!("/proc/self/fd/{}/{resource}.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
        let listener = UnixListener::bind(short).expect("the socket is free");
        let mut fake = Fake {
            socket,
            asked: Arc::default(),
            streams: Arc::default(),
            ended: Arc::default(),
            listening: None,
        };
        let (asked, streams, ended) = (fake.asked.clone(), fake.streams.clone(), fake.ended.clone());
        let answer = Arc::new(answer);
        fake.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("a client");
                streams.lock().expect("no panic").push(stream.try_clone().expect("a copy"));
                let (asked, answer, hello) = (asked.clone(), answer.clone(), hello.clone());
                std::thread::spawn(move || converse(stream, &hello, &asked, &*answer));
            }
        }));
        fake
    }

    /// The requests so far, as JSON.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }

    /// To all subscribers.
    pub(crate) fn tell(&self, notification: Notification) {
        let text = line(&DaemonLine::Notification { notification: Box::new(notification) });
        for stream in self.streams.lock().expect("no panic").iter_mut() {
            let _ = stream.write_all(text.as_bytes());
        }
    }

    /// Ends; the socket file stays behind, as after a crash.
    pub(crate) fn crash(self) {
        drop(self);
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().expect("no panic").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let directory = std::fs::File::open(self.socket.parent().expect("a parent")).expect("it opens");
        let name = self.socket.file_name().expect("a name").to_string_lossy().into_owned();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
        // Wakes the thread, which then lets go of the socket.
        let _ = UnixStream::connect(format!("/proc/self/fd/{fd}/{name}"));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end();
    }
}

fn converse(
    stream: UnixStream,
    hello: &str,
    asked: &Mutex<Vec<String>>,
    answer: &dyn Fn(&Request) -> Answer,
) {
    let mut out = stream.try_clone().expect("a copy");
    for text in BufReader::new(stream).lines().map_while(Result::ok) {
        let reply = match serde_json::from_str(&text).expect("a line of the protocol") {
            ClientLine::Hello { .. } => hello.as_bytes().to_vec(),
            ClientLine::Request { id, request } => {
                let json = serde_json::to_string(&request).expect("it is JSON");
                asked.lock().expect("no panic").push(json);
                match answer(&request) {
                    Answer::Hangup => {
                        let _ = out.shutdown(Shutdown::Both);
                        return;
                    }
                    Answer::Bytes(bytes) => bytes,
                    Answer::Done(done) => line(&DaemonLine::Done { id, done }).into_bytes(),
                    Answer::Refused(refused) => line(&DaemonLine::Refused { id, refused }).into_bytes(),
                    Answer::Notify(notifications) => {
                        let mut text = line(&DaemonLine::Done { id, done: Box::default() });
                        for notification in notifications {
                            let notification = Box::new(notification);
                            text += &line(&DaemonLine::Notification { notification });
                        }
                        text.into_bytes()
                    }
                }
            }
        };
        if out.write_all(&reply).is_err() {
            return;
        }
    }
}
