//! `packets FILE`: the packets of DRBD in a capture (`tcpdump -s 0 -w FILE port 7789`), a line each. With `--keep` as
//! text that the tests can replay.

use drbd_tests::capture;
use std::io::{self, Read, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (options, files): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let keep = options == ["--keep"];
    let ([file], true) = (&files[..], keep || options.is_empty()) else {
        eprintln!("usage: packets [--keep] FILE; FILE is a capture of tcpdump, or - for standard input");
        return ExitCode::from(2);
    };
    let mut bytes = Vec::new();
    let read = match file.as_str() {
        "-" => io::stdin().read_to_end(&mut bytes).map(drop),
        file => std::fs::read(file).map(|read| bytes = read),
    };
    if let Err(e) = read {
        eprintln!("packets: {file}: {e}");
        return ExitCode::FAILURE;
    }
    match capture::packets(&bytes) {
        Ok(seen) if keep => {
            let (text, first_missing) = capture::keep(&seen);
            print!("{text}");
            if let Some(missing) = first_missing {
                eprintln!("packets: {file}: broken off before {missing}");
            }
            ExitCode::SUCCESS
        }
        Ok(seen) => {
            let mut out = io::BufWriter::new(io::stdout().lock());
            // A reader who has seen enough is no failure.
            let _ = seen.iter().try_for_each(|packet| writeln!(out, "{packet}"));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("packets: {file}: {e}");
            ExitCode::FAILURE
        }
    }
}
