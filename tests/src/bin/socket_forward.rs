//! `socket_forward PORT SOCKET`: whoever connects to that TCP port talks to that unix socket. So clients outside a guest
//! reach the devices served inside.

use std::error::Error;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, socket] = &arguments[..] else {
        eprintln!("usage: socket_forward PORT SOCKET");
        return ExitCode::FAILURE;
    };
    match serve(port, socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("socket_forward: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str, socket: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("0.0.0.0", port.parse()?))?;
    for client in listener.incoming() {
        // A socket nobody serves: the client sees its connection end.
        if let Err(e) = client.and_then(|client| forward(client, UnixStream::connect(socket)?)) {
            eprintln!("socket_forward: {socket}: {e}");
        }
    }
    Ok(())
}

/// Both directions, each until its end.
fn forward(client: TcpStream, server: UnixStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut asks, mut takes) = (client.try_clone()?, server.try_clone()?);
    let (mut gives, mut hears) = (server, client);
    thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut takes);
        let _ = takes.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut gives, &mut hears);
        let _ = hears.shutdown(Shutdown::Write);
    });
    Ok(())
}
