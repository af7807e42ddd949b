//! The cluster of a scenario, and what a line at the margin does to it.
//!
//! | line | meaning |
//! | --- | --- |
//! | `option [NODE:] NAME VALUE` | configuration, before `begin` |
//! | `begin fresh`, `connected`, `in sync`, `in sync, alpha Primary` | disks just made; connected; equal; and in use |
//! | `NODE# drbdadm …` | an administrator; with `\|\| refused` it must be, with `&` the answer may come later |
//! | `NODE: writes 5..7 = 1` | blocks 5 to 7 get content 1, which nothing else has; likewise `reads 5 = 1` (and must find it), `discards`, `zeroes`, `flushes`; with `\|\| error` it must fail, with `&` it may end later |
//! | `NODE: writes each of 0..9 = 1`, `reads each of …` | block by block |
//! | `NODE: opens`, `closes` | a user of the device |
//! | `NODE: resumes` | its daemon, which began again where one died as Primary; with `\|\| error` it must stay Secondary |
//! | `NODE: …` | a fault or its end, see [`faults`] |
//! | `network …` | likewise |
//! | `wait 5 s`, `until CONDITION` | time passes |
//! | `must CONDITION` | see [`conditions`](super::conditions) |
//! | `until CONDITION, NODE writing` | 32 blocks every 50 ms, from 8192 on |
//! | `must took 5..7 s` | the last `until`, `wait` or request did |
//! | `lost 5..7 = 1` | that write is given up; unless said so, none is |
//! | `show packets`, `hide packets` | each by itself, or those between two events together |
//! | `end` | how it looks; promises and disks are checked |
//!
//! With `option volumes 2` there are two; blocks of the second are written `1:5..7`, a node's view of it `alpha/1`, its
//! name `r0/1`. `option metadata v08` makes disks as DRBD 8.4 does. `option NODE: disk-bytes 16777216`, `disk-blocks-of
//! 4096` and `disk-discards-in 4096` tell what its disk is like, all in bytes.

use super::super::lab::Lab;
use super::super::node::{net, options, Node, VOLUME};
use super::conditions::Condition;
use super::naming::{span, Letters, NAMES};
use super::promises::Promises;
use super::telling::{Teller, Wanted};
use crate::config::{DiskOptions, OptionSet, OptionSpec, PeerDeviceOptions, ResourceOptions, Section};
use crate::engine::{AdminRequest, Event, UpperOp, UpperRequest, UpperResult};
use crate::ids::{Minor, NodeId, PayloadId, Sector, UpperTag, VolumeNumber};
use crate::metadata::{Format, Index};
use std::collections::BTreeSet;
use std::ops::Range;

mod administration;
mod ending;
mod faults;

/// A cluster and its transcript.
#[derive(Default)]
pub(super) struct Stage {
    lab: Option<Lab>,
    options: [Vec<(String, String)>; 2],
    teller: Teller,
    letters: Letters,
    promises: Promises,
    /// Blocks that were changed behind everybody's back.
    rotten: BTreeSet<u64>,
    /// How many packets each node had sent when copies were last looked at.
    looked_at: [usize; 2],
    tags: u32,
    /// How long the last `until`, `wait` or request took.
    took_ms: u64,
    snapshots: [Option<Node>; 2],
    text: String,
}

/// What was written so far helps whoever looks for the reason.
impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            println!("{}---- here it broke off ----", self.text);
        }
    }
}

/// Both ends included; those of volume 1 begin at 2^32.
fn blocks(word: &str) -> Range<u64> {
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{word} is no block"));
    let (volume, word) = word.split_once(':').unwrap_or(("0", word));
    let (first, last) = word.split_once("..").unwrap_or((word, word));
    let base = number(volume) << 32;
    base + number(first)..base + number(last) + 1
}

fn content(word: &str) -> u32 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no content"))
}

fn node(word: &str) -> Option<usize> {
    NAMES.iter().position(|name| *name == word)
}

impl Stage {
    fn lab(&mut self) -> &mut Lab {
        self.lab.as_mut().expect("it begins with `begin`")
    }

    pub(super) fn remark(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    pub(super) fn finish(mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Does what a line says and tells what came of it.
    pub(super) fn perform(&mut self, line: &str) {
        self.remark(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["option", name, value @ ..] => self.configure(name, value),
            ["begin", how @ ..] => self.begin(how),
            ["must", "took", range, "s"] => self.must_have_taken(range),
            ["must", condition @ ..] => self.must(condition),
            ["until", condition @ ..] => self.until(condition),
            ["wait", time, unit] => {
                let ms = time.parse::<f64>().expect("a time") * if *unit == "ms" { 1.0 } else { 1000.0 };
                self.lab().pass_ms(ms as u64);
                self.took_ms = ms as u64;
            }
            ["lost", span, "=", value] => self.promises.give_up(&blocks(span), content(value)),
            ["show", "packets"] => self.teller.each_packet = true,
            ["hide", "packets"] => self.teller.each_packet = false,
            ["network", fault @ ..] => self.network(fault),
            ["end"] => self.end(),
            [who, "drbdadm", command @ ..] if who.ends_with('#') => {
                let n = node(who.trim_end_matches('#')).expect("alpha or bravo");
                self.administer(n, command);
            }
            [who, what @ ..] if who.ends_with(':') => {
                let n = node(who.trim_end_matches(':')).expect("alpha or bravo");
                self.act(n, what);
            }
            _ => panic!("`{line}` says nothing here"),
        }
        self.tell();
    }

    fn tell(&mut self) {
        let Some(lab) = &mut self.lab else { return };
        let entries = lab.journal.as_mut().map(|journal| journal.take()).unwrap_or_default();
        for (_, _, told) in &entries {
            if let super::super::lab::journal::Told::Completed(tag, result) = told {
                self.promises.ended(*tag, *result);
            }
        }
        self.text += &self.teller.tell(entries, lab.now, &mut self.letters);
    }

    // ---- the beginning -------------------------------------------------------------------------------------------

    fn configure(&mut self, name: &str, value: &[&str]) {
        let (nodes, name, value) = match node(name.trim_end_matches(':')) {
            Some(n) => (n..n + 1, value[0], &value[1..]),
            None => (0..2, name, value),
        };
        for n in nodes {
            self.options[n].push((name.to_owned(), value.join(" ")));
        }
    }

    /// The options of a section, as configured by now.
    fn of(&self, n: usize, section: Section) -> Vec<(&str, &str)> {
        let all = self.options[n].iter().filter(|(name, _)| OptionSpec::find(name).is_some());
        let all = all.map(|(name, value)| (&**name, &**value));
        all.filter(|(name, _)| OptionSpec::find(name).expect("an option").section == section).collect()
    }

    fn of_story(&self, wanted: &str) -> Option<&str> {
        self.options[0].iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value)
    }

    fn volumes(&self) -> u16 {
        self.of_story("volumes").map_or(1, |value| value.parse().expect("a number"))
    }

    fn format(&self) -> Format {
        if self.of_story("metadata") == Some("v08") {
            Format::V08
        } else {
            Format::V09
        }
    }

    fn add_volume(&mut self, n: usize) {
        let volume = self.lab().nodes[n].add_disk();
        self.new_minor(n, volume);
        let request = self.lab().nodes[n].attach_request_of(volume, true, false);
        self.lab().ask(n, AdminRequest::Attach(request)).expect("a fresh disk is attached");
    }

    /// Volume 1 has minors 11 and 12.
    fn minor(n: usize, volume: VolumeNumber) -> Minor {
        Minor(Node::minor(n as u8).0 + 10 * u32::from(volume.0))
    }

    fn new_minor(&mut self, n: usize, volume: VolumeNumber) {
        let (minor, options) = (Stage::minor(n, volume), (&OptionSet::default()).into());
        let request = AdminRequest::NewMinor { minor, volume, options };
        self.lab().ask(n, request).expect("a minor nobody has");
    }

    /// A node with a fresh disk as the story has it.
    fn node_with_disk(&self, n: usize) -> Node {
        let mut node = Node::new(n as u8, self.format(), 100 * (n as u64 + 1));
        let told = |wanted: &str| {
            let told = self.options[n].iter().find(|(name, _)| name == wanted);
            told.map(|(_, bytes)| bytes.parse::<u32>().expect("a number of bytes"))
        };
        if let Some(bytes) = told("disk-bytes") {
            node.device_bytes = vec![bytes.into()];
            node.create_metadata(self.format(), Index::Internal);
        }
        node.logical_block_size = told("disk-blocks-of").unwrap_or(node.logical_block_size);
        node.discard_granularity = told("disk-discards-in").unwrap_or(node.discard_granularity);
        node
    }

    fn begin(&mut self, how: &[&str]) {
        let nets = [0, 1].map(|n| net(&self.of(n, Section::Net)));
        let mut lab = Lab::of([0, 1].map(|n| self.node_with_disk(n)), nets);
        lab.journal = Some(super::super::lab::journal::Journal::default());
        self.lab = Some(lab);
        for n in 0..2 {
            for _ in 1..self.volumes() {
                self.add_volume(n);
            }
            self.apply_options(n);
        }
        let volumes = self.volumes();
        let lab = self.lab();
        if how != ["fresh"] {
            lab.connect();
        }
        if how.starts_with(&["in"]) {
            for volume in (0..volumes).map(VolumeNumber) {
                let request = AdminRequest::NewCurrentUuid { volume, clear_bitmap: true };
                lab.ask(0, request).expect("both disks were just made");
            }
            lab.wait("equal disks", |lab| lab.is_in_sync());
        }
        match how {
            ["fresh" | "connected"] | ["in", "sync"] => {}
            ["in", "sync,", who, "Primary"] => {
                lab.primary(node(who).expect("alpha or bravo"), false).expect("it is UpToDate");
            }
            _ => panic!("it cannot begin {how:?}"),
        }
        lab.pass_ms(100);
        lab.nodes.iter_mut().for_each(|node| node.sent.clear());
        lab.journal.as_mut().expect("set above").take();
        let now = lab.now;
        self.teller.begin(now);
    }

    /// What `adjust` would set, net options aside.
    fn apply_options(&mut self, n: usize) {
        let peer = NodeId(1 - n as u8);
        let disk = DiskOptions::from(&options(&self.of(n, Section::Disk)));
        let resource = ResourceOptions::from(&options(&self.of(n, Section::Resource)));
        let peer_device = PeerDeviceOptions::from(&options(&self.of(n, Section::PeerDevice)));
        let lab = self.lab();
        lab.ask(n, AdminRequest::ResourceOptions(resource)).expect("they may change at any time");
        let request = AdminRequest::PeerDeviceOptions { peer, volume: VOLUME, options: peer_device };
        lab.ask(n, request).expect("they may change at any time");
        if lab.disk(n).has_data() {
            let request = AdminRequest::DiskOptions { volume: VOLUME, options: disk };
            lab.ask(n, request).expect("they may change at any time");
        }
    }

    // ---- users ---------------------------------------------------------------------------------------------------

    fn act(&mut self, n: usize, what: &[&str]) {
        let (what, wanted) = match what {
            [what @ .., "&"] => (what, Wanted::Later),
            [what @ .., "||", "error"] => (what, Wanted::Failure),
            what => (what, Wanted::Success),
        };
        match what {
            ["writes", "each", "of", span, "=", value] => {
                blocks(span).for_each(|block| self.write(n, block..block + 1, content(value), false, wanted));
            }
            ["reads", "each", "of", span, "=", value] => {
                blocks(span).for_each(|block| self.read(n, &(block..block + 1), content(value), wanted));
            }
            ["writes", span, "=", value] => self.write(n, blocks(span), content(value), false, wanted),
            ["writes", span, "=", value, "fua"] => self.write(n, blocks(span), content(value), true, wanted),
            ["reads", span, "=", value] => self.read(n, &blocks(span), content(value), wanted),
            ["flushes"] => {
                let tag = self.upper(n, UpperOp::Flush, &(0..0), None, false);
                self.finish_request(n, tag, "the flush", wanted);
            }
            ["discards", span] => self.forget(n, UpperOp::Discard, &blocks(span), wanted),
            ["zeroes", span] => {
                self.forget(n, UpperOp::WriteZeroes { unmap: false }, &blocks(span), wanted);
            }
            ["opens"] => self.lab().open(n),
            ["closes"] => self.lab().close(n),
            ["resumes"] => self.resume(n, wanted),
            fault => self.fault(n, fault),
        }
    }

    fn upper(
        &mut self,
        n: usize,
        op: UpperOp,
        blocks: &Range<u64>,
        contents: Option<Vec<u32>>,
        fua: bool,
    ) -> UpperTag {
        self.tags += 1;
        let tag = UpperTag(1 << 30 | self.tags);
        let bytes = (blocks.end - blocks.start) as u32 * 4096;
        let volume = VolumeNumber((blocks.start >> 32) as u16);
        let sector = Sector((blocks.start & 0xFFFF_FFFF) * 8);
        let payload = contents.map_or(PayloadId::NONE, |contents| self.lab().buffer(n, contents));
        let request = UpperRequest { tag, volume, op, sector, bytes, payload, fua };
        self.lab().inject(n, Event::Upper(request));
        tag
    }

    fn write(&mut self, n: usize, blocks: Range<u64>, value: u32, fua: bool, wanted: Wanted) {
        let contents = Some(vec![value; (blocks.end - blocks.start) as usize]);
        let tag = self.upper(n, UpperOp::Write, &blocks, contents, fua);
        self.promises.issue(tag, blocks, value);
        self.finish_request(n, tag, &format!("the write of {value}"), wanted);
    }

    fn read(&mut self, n: usize, blocks: &Range<u64>, value: u32, wanted: Wanted) {
        let count = (blocks.end - blocks.start) as usize;
        let tag = self.upper(n, UpperOp::Read, blocks, Some(vec![0; count]), false);
        self.finish_request(n, tag, &format!("the read of {}", span(blocks)), wanted);
        if let Wanted::Success = wanted {
            assert_eq!(self.lab().nodes[n].read[&tag], vec![value; count], "what was read");
        }
    }

    /// Discards and zeroes: content 0 from here on.
    fn forget(&mut self, n: usize, op: UpperOp, blocks: &Range<u64>, wanted: Wanted) {
        let tag = self.upper(n, op, blocks, None, false);
        self.promises.issue(tag, blocks.clone(), 0);
        let what = if op == UpperOp::Discard { "discard" } else { "zeroing" };
        self.finish_request(n, tag, &format!("the {what} of {}", span(blocks)), wanted);
    }

    fn finish_request(&mut self, n: usize, tag: UpperTag, label: &str, wanted: Wanted) {
        self.teller.requests.insert((n, tag), (label.to_owned(), wanted));
        if wanted == Wanted::Later {
            return;
        }
        let lab = self.lab();
        let began = lab.now;
        lab.wait(label, |lab| lab.result(n, tag).is_some());
        let took_ms = lab.now.ms_since(began);
        let done = lab.result(n, tag) == Some(UpperResult::Done);
        assert_eq!(done, wanted == Wanted::Success, "{label}: {:?}", lab.result(n, tag));
        self.took_ms = took_ms;
    }

    // ---- what must be --------------------------------------------------------------------------------------------

    fn condition(&self, words: &[&str]) -> Condition {
        let request = |n: usize, label: &str| {
            let found = self.teller.requests.iter().filter(|((node, _), (l, _))| *node == n && l == label);
            found.map(|((_, tag), _)| *tag).next_back()
        };
        Condition::read(words, &request).unwrap_or_else(|| panic!("{words:?} is no condition"))
    }

    fn must(&mut self, words: &[&str]) {
        let condition = self.condition(words);
        let looked_at = self.looked_at;
        if let Err(why) = condition.holds(self.lab(), looked_at) {
            panic!("it must be that {}, but {why}", words.join(" "));
        }
        if let Condition::Copied(..) = condition {
            self.looked_at = [0, 1].map(|n| self.lab().nodes[n].sent.len());
        }
    }

    fn until(&mut self, words: &[&str]) {
        if let [_, .., who, "writing"] = words {
            let n = node(who).expect("alpha or bravo");
            return self.until_writing(&words.join(" "), n);
        }
        let condition = self.condition(words);
        let looked_at = self.looked_at;
        let began = self.lab().now;
        self.lab().wait(&words.join(" "), |lab| condition.holds(lab, looked_at).is_ok());
        self.took_ms = self.lab().now.ms_since(began);
    }

    fn until_writing(&mut self, words: &str, n: usize) {
        let (condition, _) = words.split_once(", ").expect("a condition");
        let condition = self.condition(&condition.split(' ').collect::<Vec<_>>());
        let looked_at = self.looked_at;
        let began = self.lab().now;
        for turn in 0..3600 {
            if condition.holds(self.lab(), looked_at).is_ok() {
                self.took_ms = self.lab().now.ms_since(began);
                return;
            }
            let block = 8192 + turn % 128 * 32;
            self.write(n, block..block + 32, 10_000 + turn as u32, false, Wanted::Success);
            self.lab().pass_ms(50);
        }
        panic!("waited in vain for {words}");
    }

    /// Both ends included.
    fn must_have_taken(&mut self, range: &str) {
        let range = blocks(range);
        let seconds = self.took_ms / 1000;
        assert!(range.contains(&seconds), "it took {} ms", self.took_ms);
    }
}
