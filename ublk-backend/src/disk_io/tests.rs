use super::*;
use crate::discard_worker::Job;
use crate::disk::{OpenDisk, OpenFile};
use drbd_core::ids::Sector;
use drbd_core::metadata::Place;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const VOLUME: VolumeNumber = VolumeNumber(0);

struct Bench {
    disks: Disks,
    ring: Ring,
    pools: Pools,
    file: File,
    next: u32,
}

/// A buffered file of 8 MiB that pretends to want blocks of `alignment`, 1 MiB of it metadata.
fn bench(name: &str, alignment: u32, discards: bool) -> Bench {
    let path = std::env::temp_dir().join(format!("udrbd-io-{}-{name}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(&vec![0xaa; 7 << 20], 0).unwrap();
    let mut facts = crate::disk::BlockFacts::of(&file);
    facts.discard_zeroes = discards;
    let place = Place {
        super_block_offset_bytes: 7 << 20,
        log_offset_bytes: (7 << 20) + 4096,
        log_bytes: 32 << 10,
        bitmap_offset_bytes: (7 << 20) + (64 << 10),
        bitmap_bytes: 4096,
        capacity: Sector::from_bytes(7 << 20),
    };
    let data = OpenFile { file: file.try_clone().unwrap(), size_bytes: 8 << 20, alignment, facts };
    let mut disks = Disks::default();
    disks.attach(VOLUME, OpenDisk { data, metadata: None, place });
    Bench { disks, ring: Ring::open().unwrap().0, pools: Pools::new().unwrap(), file, next: 0 }
}

impl Bench {
    fn start(&mut self, op: DiskOp, offset: u64, bytes: u32, payload: PayloadId) {
        self.next += 1;
        let io = DiskIo {
            volume: VOLUME,
            io: DiskIoId(self.next),
            op,
            sector: Sector::from_bytes(offset),
            bytes,
            payload,
            fua: false,
        };
        self.disks.start(io, &mut self.ring, &mut self.pools);
    }

    fn finish(&mut self, count: usize) -> Vec<(IoResult, PayloadId)> {
        let mut results = Vec::new();
        let mut done = Vec::new();
        while results.len() < count {
            if let Some(Event::DiskDone { result, payload, .. }) = self.disks.take_failed() {
                results.push((result, payload));
                continue;
            }
            self.ring.turn(Some(Duration::from_secs(10)), &mut done).unwrap();
            for completion in done.drain(..) {
                let slot = completion.token.0 as u32;
                let event = self.disks.on_done(slot, completion.result, &mut self.ring, &mut self.pools);
                if let Some(Event::DiskDone { result, payload, .. }) = event {
                    results.push((result, payload));
                }
            }
        }
        results
    }

    fn content(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        self.file.read_exact_at(&mut content, offset).unwrap();
        content
    }

    fn payload(&mut self, byte: u8, bytes: usize) -> PayloadId {
        let payload = self.pools.take(bytes, Share::Peer).unwrap();
        self.pools.payloads.span(payload).put(&vec![byte; bytes]);
        payload
    }
}

#[test]
fn a_stable_write_to_an_unknown_file_system_ends_with_a_flush() {
    for (known, steps) in [(true, 1), (false, 2)] {
        let mut bench = bench("stable", 512, true);
        bench.disks.attached[0].disk.data.facts.may_block = !known;
        bench.disks.attached[0].disk.data.alignment = 1;
        let io = MetaIo {
            volume: VOLUME,
            io: DiskIoId(1),
            op: MetaOp::SuperBlock,
            offset_bytes: 7 << 20,
            barrier: true,
        };
        bench.disks.start_meta(io, &[0x11; 4096], &mut bench.ring, &mut bench.pools);
        let (mut seen, mut ended) = (0, false);
        let mut done = Vec::new();
        while !ended {
            bench.ring.turn(Some(Duration::from_secs(10)), &mut done).unwrap();
            for completion in done.drain(..) {
                seen += 1;
                let slot = completion.token.0 as u32;
                ended =
                    bench.disks.on_done(slot, completion.result, &mut bench.ring, &mut bench.pools).is_some();
            }
        }
        // The flush ahead of the write is one more.
        assert_eq!(seen, 1 + steps);
    }
}

#[test]
fn reads_bring_their_own_buffer() {
    let mut bench = bench("read", 512, true);
    bench.start(DiskOp::Read, 4096, 8192, PayloadId::NONE);
    let (result, payload) = bench.finish(1)[0];
    assert_eq!(result, IoResult::Done);
    assert!(bench.pools.payloads.span(payload).bytes().iter().all(|b| *b == 0xaa));
    bench.pools.payloads.release(payload);
}

#[test]
fn zeroes_come_out_of_every_method() {
    for (name, discards, op) in [
        ("punch", true, DiskOp::Discard),
        ("range", false, DiskOp::Discard),
        ("keep", true, DiskOp::WriteZeroes { unmap: false }),
    ] {
        let mut bench = bench(name, 512, discards);
        bench.start(op, 512, (3 << 20) + 512, PayloadId::NONE);
        assert_eq!(bench.finish(1)[0].0, IoResult::Done);
        assert_eq!(bench.content(0, 512), vec![0xaa; 512]);
        assert!(bench.content(512, (3 << 20) + 512).iter().all(|b| *b == 0));
        assert_eq!(bench.content((3 << 20) + 1024, 512), vec![0xaa; 512]);
    }
}

#[test]
fn zeroes_are_written_where_nothing_else_works() {
    let mut bench = bench("write", 512, false);
    bench.disks.attached[0].zero_ranges = false;
    bench.start(DiskOp::Discard, 512, (3 << 20) + 512, PayloadId::NONE);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    assert!(bench.content(512, (3 << 20) + 512).iter().all(|b| *b == 0));
    assert_eq!(bench.content((3 << 20) + 1024, 512), vec![0xaa; 512]);
}

/// What the thread that discards is asked next; until then the ring does its work.
fn next_discard(bench: &mut Bench, asked: &std::sync::mpsc::Receiver<Job>) -> Job {
    let mut done = Vec::new();
    loop {
        if let Ok(job) = asked.try_recv() {
            return job;
        }
        bench.ring.turn(Some(Duration::from_secs(10)), &mut done).unwrap();
        for completion in done.drain(..) {
            let slot = completion.token.0 as u32;
            let event = bench.disks.on_done(slot, completion.result, &mut bench.ring, &mut bench.pools);
            assert!(event.is_none(), "it is done before anything was discarded: {event:?}");
        }
    }
}

#[test]
fn whole_pieces_are_discarded_where_that_is_believed_and_the_rest_is_zeroed() {
    const KIB: u64 = 1 << 10;
    let mut bench = bench("pieces", 512, false);
    let (jobs, asked) = std::sync::mpsc::channel();
    bench.disks.discards = Some(DiscardWorker::to(jobs));
    let facts = &mut bench.disks.attached[0].disk.data.facts;
    (facts.is_device, facts.discard_granularity) = (true, 64 << 10);
    let discard = |bench: &mut Bench| bench.start(DiskOp::Discard, 60 * KIB, 200 << 10, PayloadId::NONE);

    bench.disks.believe_discards(VOLUME, true);
    discard(&mut bench);
    let job = next_discard(&mut bench, &asked);
    assert_eq!((job.offset_bytes, job.bytes), (64 * KIB, 192 * KIB));
    assert!(bench.content(60 * KIB, 4 << 10).iter().all(|b| *b == 0));
    assert!(bench.disks.on_done(job.slot, 0, &mut bench.ring, &mut bench.pools).is_none(), "the end is left");
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    assert_eq!(bench.content(64 * KIB, 192 << 10), vec![0xaa; 192 << 10], "nobody discarded it");
    assert!(bench.content(256 * KIB, 4 << 10).iter().all(|b| *b == 0));
    assert_eq!(bench.content(260 * KIB, 512), vec![0xaa; 512]);

    // Between two borders there is nothing to discard.
    bench.start(DiskOp::Discard, 300 * KIB, 16 << 10, PayloadId::NONE);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    assert!(bench.content(300 * KIB, 16 << 10).iter().all(|b| *b == 0));

    // A device that cannot after all is written zeroes, from now on without asking.
    discard(&mut bench);
    let job = next_discard(&mut bench, &asked);
    bench.disks.on_done(job.slot, -libc::EOPNOTSUPP, &mut bench.ring, &mut bench.pools);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    assert!(bench.content(60 * KIB, 200 << 10).iter().all(|b| *b == 0));
    discard(&mut bench);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);

    bench.disks.believe_discards(VOLUME, false);
    discard(&mut bench);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    assert!(asked.try_recv().is_err());
}

#[test]
fn requests_finer_than_blocks_change_only_their_part() {
    let mut bench = bench("bounce", 4096, true);
    let payloads: Vec<_> = (1..=8).map(|n| bench.payload(n, 512)).collect();
    for (n, payload) in payloads.iter().enumerate() {
        bench.start(DiskOp::Write, 8192 + 512 * n as u64, 512, *payload);
    }
    assert!(bench.finish(8).iter().all(|r| r.0 == IoResult::Done));
    for n in 0..8 {
        assert_eq!(bench.content(8192 + 512 * n, 512), vec![n as u8 + 1; 512]);
    }
    bench.start(DiskOp::Read, 8192 + 512, 1024, PayloadId::NONE);
    let (_, payload) = bench.finish(1)[0];
    assert_eq!(bench.pools.payloads.span(payload).bytes()[..1024], [[2; 512], [3; 512]].concat());
}

#[test]
fn a_large_request_beside_the_blocks_is_carried_out_piece_by_piece() {
    const MIB: u64 = 1 << 20;
    for (op, byte) in [(DiskOp::Write, 7), (DiskOp::Discard, 0), (DiskOp::WriteZeroes { unmap: false }, 0)] {
        let mut bench = bench("large-bounce", 4096, true);
        let bytes = if op == DiskOp::Write { MIB } else { 3 * MIB + 1024 };
        let payload = bench.payload(7, 1 << 20);
        bench.start(op, 512, bytes as u32, if op == DiskOp::Write { payload } else { PayloadId::NONE });
        assert_eq!(bench.finish(1)[0].0, IoResult::Done, "{op:?}");
        assert_eq!(bench.content(0, 512), vec![0xaa; 512]);
        assert!(bench.content(512, bytes as usize).iter().all(|b| *b == byte), "{op:?}");
        assert_eq!(bench.content(512 + bytes, 4096), vec![0xaa; 4096]);
        bench.start(DiskOp::Read, 1024, MIB as u32, PayloadId::NONE);
        let (result, read) = bench.finish(1)[0];
        assert_eq!(result, IoResult::Done);
        let tail = if op == DiskOp::Write { 0xaa } else { 0 };
        let expected = [vec![byte; (1 << 20) - 512], vec![tail; 512]].concat();
        assert!(bench.pools.payloads.span(read).bytes() == expected);
    }
}

#[test]
fn any_number_of_unaligned_requests_needs_one_buffer() {
    let mut bench = bench("many-bounces", 4096, true);
    let payload = bench.payload(9, 1 << 20);
    for n in 0..600 {
        bench.start(DiskOp::Write, 512 * (n % 16 + 1), (1 << 20) - 512, payload);
    }
    assert!(bench.finish(600).iter().all(|r| r.0 == IoResult::Done));
}

#[test]
fn metadata_goes_to_its_place() {
    let mut bench = bench("meta", 512, true);
    for (n, (op, offset_bytes)) in [
        (MetaOp::SuperBlock, 7 << 20),
        (MetaOp::LogTransaction { block: 3 }, (7 << 20) + 4 * 4096),
        (MetaOp::BitmapBlock { block: 0 }, (7 << 20) + (64 << 10)),
        (MetaOp::Flush, 7 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let io = MetaIo { volume: VOLUME, io: DiskIoId(n as u32), op, offset_bytes, barrier: n % 2 == 0 };
        bench.disks.start_meta(io, &[n as u8 + 1; 4096], &mut bench.ring, &mut bench.pools);
        assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    }
    assert_eq!(bench.content(7 << 20, 4096), vec![1; 4096]);
    assert_eq!(bench.content((7 << 20) + 4 * 4096, 4096), vec![2; 4096]);
    assert_eq!(bench.content((7 << 20) + (64 << 10), 4096), vec![3; 4096]);
}

#[test]
fn nothing_reaches_beyond_the_data() {
    let mut bench = bench("beyond", 512, true);
    let payload = bench.payload(1, 4096);
    bench.start(DiskOp::Write, 7 << 20, 4096, payload);
    assert_eq!(bench.finish(1)[0].0, IoResult::Failed(libc::EINVAL));
    bench.disks.reach(VOLUME, Sector::from_bytes((7 << 20) + 4096));
    bench.start(DiskOp::Write, 7 << 20, 4096, payload);
    assert_eq!(bench.finish(1)[0].0, IoResult::Done);
    bench.disks.close(VOLUME);
    bench.start(DiskOp::Write, 0, 4096, payload);
    assert_eq!(bench.finish(1)[0].0, IoResult::Failed(libc::ENODEV));
}
