//! What an event costs: nanoseconds of the engine alone on both sides of mirrored 4 KiB writes.
//!
//! `cargo run --release -p drbd-tests --bin event_cost [WRITES]`

use drbd_tests::two_engines::TwoEngines;

fn main() {
    let writes = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse());
    let Ok(writes) = writes else {
        eprintln!("event_cost: the number of writes is a number, such as 1000000");
        std::process::exit(2);
    };
    println!(
        "4 KiB writes, {writes} of each kind; depth 1 has a flush after every 16, depth 64 after every 256"
    );
    println!("protocol  depth  side       ns/event  events/write  ns/write  writes/s and core  writes/epoch");
    for protocol in ["A", "B", "C"] {
        for (depth, flush_every) in [(1, 16), (64, 256)] {
            measure(protocol, depth, flush_every, writes);
        }
    }
}

fn measure(protocol: &str, depth: u64, flush_every: u64, writes: u64) {
    let mut pair = TwoEngines::connected(protocol);
    pair.write(writes / 5 + 100_000, depth, flush_every);
    pair.forget_costs();
    pair.write(writes, depth, flush_every);
    for (name, side) in ["Primary", "Secondary"].iter().zip(&pair.sides) {
        let ns = side.spent.as_nanos() as f64;
        let (events, writes) = (side.events as f64, pair.completed as f64);
        println!(
            "{protocol:<8}  {depth:>5}  {name:<9}  {:>8.0}  {:>12.2}  {:>8.0}  {:>17.0}  {:>12.1}",
            ns / events,
            events / writes,
            ns / writes,
            writes / ns * 1e9,
            writes / pair.barriers as f64,
        );
    }
}
