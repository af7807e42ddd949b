//! The control socket: who may speak, lines in and out, subscribers.
//!
//! A subscriber that does not keep up is cut off rather than waited for; it begins again with a full dump.

use crate::administration::{Administration, Answer};
use crate::auto_promotion;
use crate::handlers;
use crate::mailbox::ToControl;
use drbd_core::control::{
    ClientLine, DaemonHello, DaemonLine, Done, Kind, Notification, Object, RefusedReply, Request,
    ResourceStatus, VERSION,
};
use drbd_core::refusal::{Reason, Refusal};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{channel, Receiver, Sender, UnboundedReceiver};

/// Longest line of a client.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Lines waiting for one subscriber.
const SUBSCRIBER_LINES_MAX: usize = 4096;
/// Clients at a time.
const CLIENTS_MAX: usize = 256;

/// All that is known of clients.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    administration: Rc<Administration>,
    subscribers: RefCell<Vec<Sender<Arc<str>>>>,
    /// Subscribers whose dump was asked for, by ticket.
    joining: RefCell<Vec<(u32, Sender<Arc<str>>)>>,
    clients: std::cell::Cell<usize>,
}

impl ControlSocket {
    /// No clients yet.
    pub(crate) fn new(administration: Rc<Administration>) -> Rc<ControlSocket> {
        Rc::new(ControlSocket {
            administration,
            subscribers: RefCell::default(),
            joining: RefCell::default(),
            clients: std::cell::Cell::new(0),
        })
    }

    /// Lets clients in, for ever.
    pub(crate) async fn serve(self: Rc<Self>, listener: UnixListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: those in use come back.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            if !may_speak(&stream) || self.clients.get() >= CLIENTS_MAX {
                continue;
            }
            let socket = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                socket.clients.set(socket.clients.get() + 1);
                // A client that goes away in the middle of a line is no one's problem.
                let _ = socket.converse(stream).await;
                socket.clients.set(socket.clients.get() - 1);
            });
        }
    }

    /// Takes what the data plane says, until it ends; the sentence says why it ended by itself.
    pub(crate) async fn listen_to_data(
        self: Rc<Self>,
        mut from_data: UnboundedReceiver<ToControl>,
    ) -> String {
        while let Some(said) = from_data.recv().await {
            match said {
                ToControl::Reply { ticket, result } => {
                    self.administration.answered(ticket, Answer::Reply(result));
                }
                ToControl::Status { ticket, status } => {
                    let at = self.joining.borrow().iter().position(|(t, _)| *t == ticket.0);
                    match at {
                        Some(at) => {
                            let (_, lines) = self.joining.borrow_mut().swap_remove(at);
                            self.join(lines, &status);
                        }
                        None => self.administration.answered(ticket, Answer::Status(status)),
                    }
                }
                ToControl::Generation { ticket, generation } => {
                    self.administration.answered(ticket, Answer::Generation(generation));
                }
                ToControl::Notify(notification) => {
                    self.administration.data.took_notification();
                    self.publish(&notification);
                }
                ToControl::Overrun => self.subscribers.borrow_mut().clear(),
                ToControl::RunHandler { handler, call } => handlers::run(&self.administration, handler, call),
                ToControl::SettingsAdopted { peer, options } => {
                    self.administration.settings_adopted(peer, *options);
                }
                ToControl::SizeAdopted { volume, size } => self.administration.size_adopted(volume, size),
                ToControl::DiskClosed(volume) => self.administration.disk_closed(volume),
                ToControl::Device { volume, size, writable } => {
                    self.administration.devices.device(volume, size, writable);
                }
                ToControl::KernelLeft(volume) => self.administration.devices.left(volume),
                ToControl::HandedOver(session) => self.administration.handed_over(session),
                ToControl::Promote => {
                    tokio::task::spawn_local(auto_promotion::promote(Rc::clone(&self.administration)));
                }
                ToControl::Failed(sentence) => return sentence,
            }
        }
        self.administration.give_up();
        "the data plane ended".to_owned()
    }

    fn publish(&self, notification: &Notification) {
        let mut subscribers = self.subscribers.borrow_mut();
        if subscribers.is_empty() {
            return;
        }
        let line = line_of(&DaemonLine::Notification { notification: Box::new(notification.clone()) });
        subscribers.retain(|lines| lines.try_send(Arc::clone(&line)).is_ok());
    }

    /// The dump, then everything that follows: nothing in between is lost, because the data plane speaks in order.
    fn join(&self, lines: Sender<Arc<str>>, status: &ResourceStatus) {
        let resource = self.administration.resource.clone();
        let end = Notification { kind: Kind::Exists, resource, what: Object::End, group: 0 };
        let complete = status.dump().into_iter().chain([end]).all(|notification| {
            let line = line_of(&DaemonLine::Notification { notification: Box::new(notification) });
            lines.try_send(line).is_ok()
        });
        if complete {
            self.subscribers.borrow_mut().push(lines);
        }
    }

    async fn converse(&self, stream: UnixStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = Lines { read: BufReader::new(read), partial: Vec::new() };
        let Some(first) = lines.next().await? else { return Ok(()) };
        if !self.greet(&first, &mut write).await? {
            return Ok(());
        }
        let mut notifications: Option<Receiver<Arc<str>>> = None;
        loop {
            tokio::select! {
                line = lines.next() => {
                    let Some(line) = line? else { return Ok(()) };
                    if let Some(subscription) = self.answer(&line, &mut write).await? {
                        notifications = Some(subscription);
                    }
                }
                line = next_notification(&mut notifications) => {
                    // None: cut off, for being too slow.
                    let Some(line) = line else { return Ok(()) };
                    write.write_all(line.as_bytes()).await?;
                }
            }
        }
    }

    /// True if a version is spoken on both sides.
    async fn greet(&self, line: &str, write: &mut OwnedWriteHalf) -> std::io::Result<bool> {
        let speaks = match serde_json::from_str(line) {
            Ok(ClientLine::Hello { hello }) => hello.speak.contains(&VERSION),
            Ok(ClientLine::Request { .. }) | Err(_) => false,
        };
        // Told in any case, so that a client of another version can say what is wrong.
        let hello = DaemonHello {
            version: VERSION,
            daemon: crate::VERSION.to_owned(),
            resource: self.administration.resource.clone(),
        };
        write.write_all(line_of(&DaemonLine::Hello { hello }).as_bytes()).await?;
        Ok(speaks)
    }

    /// Answers one line; a subscription comes back as the queue of its notifications.
    async fn answer(
        &self,
        line: &str,
        write: &mut OwnedWriteHalf,
    ) -> std::io::Result<Option<Receiver<Arc<str>>>> {
        let (id, request) = match serde_json::from_str(line) {
            Ok(ClientLine::Request { id, request }) => (id, request),
            Ok(ClientLine::Hello { .. }) => return Ok(None),
            Err(e) => {
                let refusal = Refusal::because(Reason::PacketNumber, format!("not a request: {e}"));
                let id = id_of(line);
                let reply = DaemonLine::Refused { id, refused: RefusedReply::from(&refusal) };
                write.write_all(line_of(&reply).as_bytes()).await?;
                return Ok(None);
            }
        };
        let subscribe = matches!(request, Request::Subscribe);
        let result = self.administration.carry_out(request, false).await;
        let accepted = result.is_ok();
        write.write_all(line_of(&reply(id, result)).as_bytes()).await?;
        Ok((subscribe && accepted).then(|| self.subscribe()))
    }

    fn subscribe(&self) -> Receiver<Arc<str>> {
        let (lines, subscription) = channel(SUBSCRIBER_LINES_MAX);
        let (ticket, _) = self.administration.ticket();
        self.joining.borrow_mut().push((ticket.0, lines));
        self.administration.data.send(crate::mailbox::ToData::Status { ticket });
        subscription
    }
}

fn reply(id: u64, result: Result<Done, Refusal>) -> DaemonLine {
    match result {
        Ok(done) => DaemonLine::Done { id, done: Box::new(done) },
        Err(refusal) => DaemonLine::Refused { id, refused: RefusedReply::from(&refusal) },
    }
}

/// The id of a line that is otherwise not understood, so that its sender can tell which one it was.
fn id_of(line: &str) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    value.and_then(|v| v.get("id")?.as_u64()).unwrap_or(0)
}

/// Only the owner of the daemon and root.
fn may_speak(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

async fn next_notification(lines: &mut Option<Receiver<Arc<str>>>) -> Option<Arc<str>> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

fn line_of(line: &DaemonLine) -> Arc<str> {
    let mut text = serde_json::to_string(line).expect("control objects are plain data");
    text.push('\n');
    text.into()
}

/// Lines of bounded length; what was read of the next one survives being interrupted.
struct Lines {
    read: BufReader<OwnedReadHalf>,
    partial: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let chunk = self.read.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let taken = end.map_or(chunk.len(), |at| at + 1);
            self.partial.extend_from_slice(&chunk[..taken]);
            self.read.consume(taken);
            if self.partial.len() > LINE_BYTES_MAX {
                return Err(std::io::Error::other("a line is too long"));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.partial);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    }
}
