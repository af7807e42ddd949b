//! drbdmeta: creates, shows and repairs DRBD's metadata on a device or in a file.
//!
//! The bytes are `drbd_core::metadata`'s; this program opens the device exclusively, asks before it destroys, and
//! speaks the words and exit codes of drbdmeta 9.34. Reading order: [`arguments`], [`found`], then the commands.

#![forbid(unsafe_code)]

mod apply_log;
mod arguments;
mod check_resize;
mod create;
mod device;
mod dump;
mod failure;
mod foreign_data;
mod found;
mod generation;
mod last_known;
mod minor;
mod numbers;
mod places;
mod restore;
mod state;
mod terminal;

use arguments::{read, usage, Arguments, Verb};
use failure::{exit, Failure};
use found::Opened;
use std::process::ExitCode;
use terminal::{say, Terminal};

fn main() -> ExitCode {
    let failure = match run() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    if !failure.message.is_empty() {
        Terminal::default().note(format_args!("{failure}"));
    }
    ExitCode::from(failure.code)
}

fn run() -> Result<(), Failure> {
    let words = match read(std::env::args_os()) {
        Ok(words) => words,
        Err(Some(failure)) => return Err(failure),
        Err(None) => {
            let called_as = std::env::args().next().unwrap_or_default();
            say(format_args!("{}", usage(called_as.rsplit('/').next().unwrap_or("drbdmeta")).trim_end()))?;
            return Err(Failure::silent(exit::USAGE));
        }
    };
    let create = words.check_values()?;
    let minor = minor::minor_of(words.drbd_device());
    // Held to the end of the process.
    let _lock = minor.map(minor::lock).transpose()?;
    let attached = minor.map(minor::is_attached).transpose()?.unwrap_or(false);
    if attached && words.modifies() {
        let device = words.drbd_device();
        return Err(Failure::usage(format!(
            "Device '{device}' is configured!\n\
             # A running resource has its disk attached: drbdadm detach it first, or down. Nothing was changed."
        )));
    }
    let arguments = words.finish(create)?;
    let terminal = Terminal::new(arguments.force, arguments.quiet);
    let done = dispatch(&arguments, &terminal);
    if let (true, Some(minor)) = (attached, minor) {
        terminal.note(format_args!("# Output might be stale, since minor {minor} is attached"));
    }
    terminal.note_suppressed();
    done
}

fn dispatch(arguments: &Arguments, terminal: &Terminal) -> Result<(), Failure> {
    let words_taken = match arguments.verb {
        Verb::CreateMd => return create::create(arguments, terminal),
        Verb::VerifyDump => return restore::verify(arguments),
        Verb::SetGi | Verb::WriteDevUuid | Verb::RestoreMd => 1,
        Verb::GetGi
        | Verb::ShowGi
        | Verb::DumpMd
        | Verb::ApplyAl
        | Verb::WipeMd
        | Verb::Outdate
        | Verb::Invalidate
        | Verb::Dstate
        | Verb::ReadDevUuid
        | Verb::ForgetPeer
        | Verb::RepairMd
        | Verb::CheckResize => 0,
    };
    if arguments.rest.len() > words_taken {
        terminal.note(format_args!("Ignoring additional arguments"));
    }
    if arguments.rest.len() < words_taken {
        return Err(Failure::value("Required Argument missing"));
    }
    let mut opened = Opened::open(arguments, terminal)?;
    match arguments.verb {
        Verb::GetGi => generation::get(&mut opened),
        Verb::ShowGi => generation::show(&mut opened),
        Verb::SetGi => generation::set(&mut opened),
        Verb::DumpMd => dump::dump(&mut opened),
        Verb::ApplyAl => apply_log::apply(&mut opened),
        Verb::WipeMd => state::wipe(&mut opened),
        Verb::Outdate => state::outdate(&mut opened),
        Verb::Invalidate => state::invalidate(&mut opened),
        Verb::Dstate => state::dstate(&mut opened),
        Verb::ReadDevUuid => state::read_dev_uuid(&mut opened),
        Verb::WriteDevUuid => state::write_dev_uuid(&mut opened),
        Verb::ForgetPeer => state::forget_peer(&mut opened),
        Verb::RepairMd => state::repair(&mut opened),
        Verb::RestoreMd => restore::restore(&mut opened),
        Verb::CheckResize => check_resize::check(&mut opened),
        Verb::CreateMd | Verb::VerifyDump => Ok(()),
    }
}
