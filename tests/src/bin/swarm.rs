//! Runs many seeds of the simulator: `swarm --seeds 0..100000 --threads 2`. Progress with rate and time left on a
//! terminal, silence in a pipe; at the end how often each fault was injected. A failing seed is printed as the command
//! that replays it. `swarm --kinds` names the kinds of runs there are, one per line.

use drbd_tests::sim::{self, fault_name, Limits, Report, FAULT_KINDS, KINDS};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: swarm [--kind KIND] [--seeds A..B] [--threads N] [--stop-at FAILURES] [--trace SEED] [--kinds] [--help]";

/// What is asked for.
enum Asked {
    Seeds(Arguments),
    Kinds,
    Help,
}

struct Arguments {
    seeds: Range<u64>,
    threads: usize,
    stop_at: usize,
}

#[derive(Default)]
struct Sum {
    faults: [u64; FAULT_KINDS],
    events: u64,
    writes: u64,
    reads: u64,
    flushes: u64,
    splits: u64,
    resolved: u64,
    resumed: [u64; 3],
    handed: [u64; 3],
    failed: Vec<(u64, Report)>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Asked::Seeds(arguments)) => arguments,
        Ok(Asked::Kinds) => {
            KINDS.iter().for_each(|(name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Help) => {
            println!("{USAGE}; {}", kinds());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("{text}\n{USAGE}; {}", kinds());
            return ExitCode::from(1);
        }
    };
    let sum = swarm(&arguments);
    let seeds = arguments.seeds.end - arguments.seeds.start;
    println!(
        "{seeds} seeds, {} failed; {} events, {} writes, {} reads, {} flushes, {} splits resolved, {} by policy",
        sum.failed.len(),
        sum.events,
        sum.writes,
        sum.reads,
        sum.flushes,
        sum.splits,
        sum.resolved
    );
    let [given, adopted, undisturbed] = sum.handed;
    println!("handed over: {given}, adopted {adopted}, undisturbed {undisturbed}");
    let [connected, alone, refused] = sum.resumed;
    println!("Primary again: {connected} connected, {alone} alone; {refused} not");
    let faults: Vec<String> =
        sum.faults.iter().enumerate().map(|(kind, count)| format!("{} {count}", fault_name(kind))).collect();
    println!("faults: {}", faults.join(", "));
    ExitCode::from(u8::from(!sum.failed.is_empty()))
}

fn arguments() -> Result<Asked, String> {
    let mut parsed = Arguments { seeds: 0..2000, threads: 2, stop_at: usize::MAX };
    let mut first = 0;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kinds" => return Ok(Asked::Kinds),
            "--help" | "-h" => return Ok(Asked::Help),
            _ => {}
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is not a number"));
        match word.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or("--seeds wants A..B")?;
                parsed.seeds = number(from)?..number(to)?;
            }
            "--kind" => {
                let kind = KINDS.iter().find(|(name, _)| *name == value);
                (_, first) = *kind.ok_or_else(|| format!("{value} is no kind; {}", kinds()))?;
            }
            "--threads" => parsed.threads = number(&value)?.clamp(1, 64) as usize,
            "--trace" => {
                let report = sim::run(number(&value)?, Limits { print: true, ..Limits::ALL });
                eprintln!("{report:?}");
                parsed.seeds = 0..0;
            }
            "--stop-at" => parsed.stop_at = number(&value)? as usize,
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    parsed.seeds = parsed.seeds.start + first..parsed.seeds.end + first;
    Ok(Asked::Seeds(parsed))
}

fn kinds() -> String {
    format!("kinds are {}", KINDS.map(|(name, _)| name).join(", "))
}

fn swarm(arguments: &Arguments) -> Sum {
    let next = AtomicU64::new(arguments.seeds.start);
    let sum = Mutex::new(Sum::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| worker(arguments, &next, &sum));
        }
        if std::io::stderr().is_terminal() {
            progress(arguments, &next, &sum, began);
        }
    });
    sum.into_inner().expect("no worker panics")
}

fn worker(arguments: &Arguments, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= arguments.seeds.end
            || sum.lock().expect("no worker panics").failed.len() >= arguments.stop_at
        {
            return;
        }
        let report = sim::run(seed, Limits::UNTRACED);
        let mut sum = sum.lock().expect("no worker panics");
        for (total, count) in sum.faults.iter_mut().zip(report.faults) {
            *total += count;
        }
        sum.events += report.events;
        sum.writes += report.writes;
        sum.reads += report.reads;
        sum.flushes += report.flushes;
        sum.splits += report.splits;
        sum.resolved += report.resolved;
        sum.handed.iter_mut().zip(report.handed).for_each(|(total, count)| *total += count);
        sum.resumed.iter_mut().zip(report.resumed).for_each(|(total, count)| *total += count);
        if let Some(failure) = &report.failure {
            let text = failure.text.replace('\n', " ");
            println!(
                "SEED={seed} cargo test -p drbd-tests --test simulation   # {}: {text}",
                failure.checker
            );
            sum.failed.push((seed, report));
        }
    }
}

fn progress(arguments: &Arguments, next: &AtomicU64, sum: &Mutex<Sum>, began: Instant) {
    let total = arguments.seeds.end - arguments.seeds.start;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let done = next.load(Ordering::Relaxed).min(arguments.seeds.end) - arguments.seeds.start;
        let failed = sum.lock().expect("no worker panics").failed.len();
        let rate = done as f64 / began.elapsed().as_secs_f64();
        let left = (total - done) as f64 / rate.max(0.001);
        eprint!("\r{done}/{total} seeds, {failed} failed, {rate:.0}/s, {left:.0} s left  ");
        let _ = std::io::stderr().flush();
        if done >= total || failed >= arguments.stop_at {
            eprintln!();
            return;
        }
    }
}
