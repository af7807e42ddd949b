//! `udrbd upgrade RESOURCE`: has a running daemon become this program, and waits until this one answers.

use crate::daemon_client::Daemon;
use crate::run_dir::RunDir;
use drbd_core::control::Request;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// So long the whole may take.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Says what was upgraded. The error is a sentence.
pub(crate) fn upgrade(resource: &str) -> Result<String, String> {
    let run_dir = RunDir::open(&RunDir::path_for_this_user()?)?;
    let program = std::env::current_exe().map_err(|e| format!("this program cannot be found: {e}."))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}."))?;
    let upgrading = async {
        let mut old = Daemon::reach(&run_dir, resource)
            .await
            .map_err(|e| format!("its daemon cannot be reached: {e}; `drbdadm up` starts one."))?;
        let begun = Instant::now();
        match old.ask(Request::Upgrade { program: program.to_string_lossy().into_owned() }).await {
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
            Err(e) => return Err(format!("{} stays: {e}.", old.program)),
            Ok(_) => return Err(format!("{} says that it has upgraded, and is still there.", old.program)),
        }
        let mut new = loop {
            match Daemon::reach(&run_dir, resource).await {
                Ok(new) => break new,
                Err(_) => tokio::time::sleep(BETWEEN_TRIES).await,
            }
        };
        new.ask(Request::Status).await.map_err(|e| format!("{} does not answer: {e}.", new.program))?;
        Ok(format!("{} -> {} in {} ms", old.program, new.program, begun.elapsed().as_millis()))
    };
    runtime.block_on(async {
        let late = |_| Err(format!("it took longer than {} s; see its log.", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, upgrading).await.unwrap_or_else(late)
    })
}
