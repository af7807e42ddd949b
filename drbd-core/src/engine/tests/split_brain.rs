//! Two nodes were written apart and meet again: every value of every policy as a transcript that can be read
//! (`scenarios/*.txt`). A transcript that changed is printed whole by the failing test; it is reviewed and put in place
//! of the old one.

use super::lab::Lab;
use super::node::net;
use crate::engine::AdminRequest;
use crate::ids::NodeId;
use crate::metadata::Format;
use crate::states::ConnectionState;
use std::collections::BTreeMap;

const NAMES: [&str; 2] = ["alpha", "bravo"];

/// What is logged of a meeting.
const TOLD: [&str; 6] =
    ["sync-handshake", "incompatible", "forced", "session-end", "no-data", "concurrent-writes"];

/// A story and how it is told.
struct Story {
    lab: Lab,
    text: String,
    /// Log records and handler calls told so far.
    told: [(usize, usize); 2],
    /// Letters for generations, in the order of appearance.
    letters: BTreeMap<String, char>,
    content: u32,
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// discard-local on one node is discard-remote on the other.
fn mirrored<'a>(options: Pairs<'a>) -> Vec<(&'a str, &'a str)> {
    let swap = |value: &'a str| match value {
        "discard-local" => "discard-remote",
        "discard-remote" => "discard-local",
        other => other,
    };
    options.iter().map(|&(name, value)| (name, swap(value))).collect()
}

impl Story {
    /// Both in sync, nobody Primary.
    fn begin(title: &str, options: Pairs<'_>) -> Story {
        let mut story = Story::apart(title, options);
        story.lab.connect();
        story.lab.primary(0, true).expect("forced");
        story.lab.wait("in sync", |lab| lab.is_in_sync());
        story.lab.secondary(0).expect("nobody has it open");
        story.lab.pass_ms(100);
        story.skip();
        story
    }

    /// Fresh disks, not connected.
    fn apart(title: &str, options: Pairs<'_>) -> Story {
        let mut all = vec![("connect-int", "1")];
        all.extend(options);
        let lab = Lab::with([net(&all), net(&mirrored(&all))], Format::V09);
        let mut text = format!("== {title}\n");
        for (name, value) in options {
            text += &format!("   {name} {value};\n");
        }
        Story { lab, text, told: [(0, 0); 2], letters: BTreeMap::new(), content: 0 }
    }

    fn skip(&mut self) {
        self.told = [0, 1].map(|n| (self.lab.nodes[n].records.len(), self.lab.nodes[n].handlers.len()));
    }

    fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn primary(&mut self, n: usize) {
        self.line(&format!("{}: drbdadm primary r0", NAMES[n]));
        self.lab.primary(n, false).expect("its data is UpToDate");
        self.tell();
    }

    fn secondary(&mut self, n: usize) {
        self.line(&format!("{}: drbdadm secondary r0", NAMES[n]));
        self.lab.secondary(n).expect("nobody has it open");
        self.tell();
    }

    /// Writes that many blocks, from that one on.
    fn write(&mut self, n: usize, block: u64, blocks: u64) {
        self.line(&format!("{}: writes blocks {block}..{}", NAMES[n], block + blocks - 1));
        self.content += 1;
        for block in block..block + blocks {
            let content = self.content;
            let tag = self.lab.write(n, block, content);
            assert!(self.lab.is_done(n, tag), "{} cannot write", NAMES[n]);
        }
        self.tell();
    }

    fn cut(&mut self) {
        self.line("the network fails");
        self.lab.cut();
        self.skip();
    }

    fn mend(&mut self) {
        self.line("the network is back");
        self.lab.mend();
        self.lab.pass_ms(6000);
        self.tell();
    }

    fn connect(&mut self, n: usize, tentative: bool, discard_my_data: bool) {
        let flags = [(tentative, " --tentative"), (discard_my_data, " --discard-my-data")];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag).collect();
        self.line(&format!("{}: drbdadm connect{flags} r0", NAMES[n]));
        let request = AdminRequest::Connect { peer: NodeId(1 - n as u8), tentative, discard_my_data };
        if let Err(refusal) = self.lab.ask(n, request) {
            self.line(&format!("    refused: ({}) {}", refusal.reason.number(), refusal.reason.text()));
        }
        self.lab.pass_ms(6000);
        self.tell();
    }

    fn disconnect(&mut self, n: usize) {
        self.line(&format!("{}: drbdadm disconnect r0", NAMES[n]));
        self.lab.disconnect(n).expect("it parts");
        self.lab.pass_ms(100);
        self.skip();
    }

    /// What the logs and the handlers say since the last time.
    fn tell(&mut self) {
        for (n, name) in NAMES.iter().enumerate() {
            let (records, handlers) = self.told[n];
            let node = &self.lab.nodes[n];
            let records = node.records[records..].iter().filter(|r| TOLD.contains(&r.code));
            let records = records.flat_map(|r| r.text.lines()).filter(|line| *line != "drbd_sync_handshake:");
            let handlers = node.handlers[handlers..].iter().filter(|name| !name.is_empty());
            let lines: Vec<String> = records
                .map(|line| format!("    {name} | {line}"))
                .chain(handlers.map(|handler| format!("    {name} ! handler {handler}")))
                .collect();
            let mut said: Vec<&String> = Vec::new();
            for line in &lines {
                if said.contains(&line) {
                    continue;
                }
                said.push(line);
                let times = lines.iter().filter(|other| *other == line).count();
                let times = if times > 1 { format!(" ({times} times)") } else { String::new() };
                let line = self.with_letters(line);
                self.line(&(line + &times));
            }
        }
        self.skip();
    }

    /// Generations by letters: the same letter, the same data. A small letter was not Primary.
    fn with_letters(&mut self, line: &str) -> String {
        let mut text = String::new();
        for word in line.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
            if digits.len() != 16 {
                text += word;
                continue;
            }
            let uuid = u64::from_str_radix(digits, 16).expect("hex digits");
            text += &self.letter(uuid);
            text += &word[16..];
        }
        text
    }

    fn letter(&mut self, uuid: u64) -> String {
        match uuid {
            0 => return "-".to_owned(),
            4 => return "new".to_owned(),
            _ => {}
        }
        let next = (b'A' + self.letters.len() as u8) as char;
        let letter = *self.letters.entry(format!("{:x}", uuid & !1)).or_insert(next);
        if uuid & 1 == 1 { letter } else { letter.to_ascii_lowercase() }.to_string()
    }

    /// How it ends; the whole text.
    fn end(mut self) -> String {
        for (n, name) in NAMES.iter().enumerate() {
            let s = self.lab.nodes[n].engine.snapshot(Some(0));
            let bits = self.lab.out_of_sync(n).len();
            self.line(&format!(
                "{name}: role:{} {}, replication:{}, disk:{}, peer-disk:{}, {bits} blocks out of sync",
                s.role, s.connection, s.replication, s.disk, s.peer_disk
            ));
        }
        let [a, b] = [0, 1].map(|n| &self.lab.nodes[n].disk);
        let owner = |disk: &BTreeMap<u64, u32>, block| disk.get(&block).copied().unwrap_or(0);
        let differs = a.keys().chain(b.keys()).filter(|&&block| owner(a, block) != owner(b, block)).count();
        let [here, there] = [a, b].map(|disk| format!("{} {}", owner(disk, 5), owner(disk, 25)));
        let same = if differs == 0 { "both disks are the same" } else { "the disks differ" };
        self.line(&format!("{same}: blocks 5 and 25 hold {here} on alpha, {there} on bravo"));
        if self.lab.is_in_sync() {
            self.lab.check_alike_where_written();
        }
        self.text.push('\n');
        self.text
    }
}

/// How two nodes were written apart.
struct Split {
    /// Blocks alpha, Primary when the network failed, writes from block 5 on.
    alpha: u64,
    /// Blocks bravo, Primary after that, writes from block 25 on.
    bravo: u64,
    /// Who is Primary when the network is back.
    primary: [bool; 2],
}

const NOBODY: Split = Split { alpha: 3, bravo: 5, primary: [false; 2] };
const ALPHA: Split = Split { primary: [true, false], ..NOBODY };
const BRAVO: Split = Split { primary: [false, true], ..NOBODY };
const BOTH: Split = Split { primary: [true; 2], ..NOBODY };

fn split(title: &str, options: Pairs<'_>, split: &Split) -> Story {
    let mut story = Story::begin(title, options);
    story.primary(0);
    story.cut();
    if split.alpha > 0 {
        story.write(0, 5, split.alpha);
    }
    story.primary(1);
    if split.bravo > 0 {
        story.write(1, 25, split.bravo);
    }
    for n in 0..2 {
        if !split.primary[n] {
            story.secondary(n);
        }
    }
    story.mend();
    story
}

fn told(title: &str, options: Pairs<'_>, how: &Split) -> String {
    split(title, options, how).end()
}

/// Compares with the transcript kept, and prints the new one if it differs.
fn compare(name: &str, kept: &str, stories: &[String]) {
    let text: String = stories.concat();
    if text != kept {
        println!("---- scenarios/{name} ----\n{text}---- end ----");
    }
    assert!(text == kept, "{name} differs from the transcript kept; the new one is printed above");
}

#[test]
fn after_split_brain_nobody_primary() {
    let story = |policy, what: &str, how: &Split| told(what, &[("after-sb-0pri", policy)], how);
    let stories = [
        story("disconnect", "both were written, nobody is Primary", &NOBODY),
        story("discard-younger-primary", "alpha was Primary first: bravo's changes go", &NOBODY),
        story("discard-older-primary", "alpha was Primary first: its changes go", &NOBODY),
        story("discard-zero-changes", "alpha wrote nothing: it follows", &Split { alpha: 0, ..NOBODY }),
        story("discard-zero-changes", "bravo wrote nothing: it follows", &Split { bravo: 0, ..NOBODY }),
        story("discard-zero-changes", "both wrote: it does not decide", &NOBODY),
        story("discard-least-changes", "alpha wrote less: it follows", &NOBODY),
        story("discard-least-changes", "bravo wrote less: it follows", &Split { alpha: 7, ..NOBODY }),
        story(
            "discard-least-changes",
            "both wrote as much: the session decides",
            &Split { alpha: 5, ..NOBODY },
        ),
        story("discard-local", "alpha's changes go (bravo has discard-remote)", &NOBODY),
        story("discard-remote", "bravo's changes go (bravo has discard-local)", &NOBODY),
    ];
    compare("after-sb-0pri.txt", include_str!("scenarios/after-sb-0pri.txt"), &stories);
}

#[test]
fn after_split_brain_one_primary() {
    let story = |zero, one, what: &str, how: &Split| {
        told(what, &[("after-sb-0pri", zero), ("after-sb-1pri", one), ("rr-conflict", "violently")], how)
    };
    let least = "discard-least-changes";
    let stories = [
        story(least, "disconnect", "alpha is Primary", &ALPHA),
        story(least, "consensus", "bravo is Primary, alpha wrote less: agreed", &BRAVO),
        story(least, "consensus", "alpha is Primary and wrote less: not agreed", &ALPHA),
        story(
            least,
            "discard-secondary",
            "alpha is Primary: bravo's changes go, though they are more",
            &ALPHA,
        ),
        story(least, "discard-secondary", "bravo is Primary: alpha's changes go", &BRAVO),
        story(least, "violently-as0p", "alpha is Primary and wrote less: its data changes under it", &ALPHA),
        story(least, "violently-as0p", "bravo is Primary, alpha wrote less", &BRAVO),
        story(least, "call-pri-lost-after-sb", "alpha wrote less: its handler is called", &ALPHA),
        story(least, "call-pri-lost-after-sb", "bravo is Primary, alpha wrote less", &BRAVO),
        story("disconnect", "violently-as0p", "after-sb-0pri does not decide", &ALPHA),
    ];
    compare("after-sb-1pri.txt", include_str!("scenarios/after-sb-1pri.txt"), &stories);
}

#[test]
fn after_split_brain_both_primary() {
    let story = |zero, two, what: &str, how: &Split| {
        let options = [
            ("allow-two-primaries", "yes"),
            ("after-sb-0pri", zero),
            ("after-sb-2pri", two),
            ("rr-conflict", "violently"),
        ];
        told(what, &options, how)
    };
    let least = "discard-least-changes";
    let stories = [
        story(least, "disconnect", "both are Primary", &BOTH),
        story(least, "violently-as0p", "alpha wrote less: its data changes under it", &BOTH),
        story(least, "call-pri-lost-after-sb", "alpha wrote less: its handler is called", &BOTH),
        story("disconnect", "violently-as0p", "after-sb-0pri does not decide", &BOTH),
    ];
    compare("after-sb-2pri.txt", include_str!("scenarios/after-sb-2pri.txt"), &stories);
}

#[test]
fn a_primary_would_become_target() {
    let story = |policy, what: &str| {
        let options = [
            ("after-sb-0pri", "discard-least-changes"),
            ("after-sb-1pri", "violently-as0p"),
            ("rr-conflict", policy),
        ];
        told(what, &options, &ALPHA)
    };
    let stories = [
        story("disconnect", "alpha is Primary and wrote less: they part"),
        story("call-pri-lost", "they part, and alpha's handler is called"),
        story("violently", "alpha's data changes under it"),
        story("retry-connect", "they part and try again and again"),
        story("auto-discard", "of DRBD 9 and protocol A: they part"),
    ];
    compare("rr-conflict.txt", include_str!("scenarios/rr-conflict.txt"), &stories);
}

/// Both were written apart, and alpha's bitmap counts from another generation than bravo's since.
fn without_common_bitmap(title: &str, options: Pairs<'_>) -> Story {
    let mut story = Story::begin(title, options);
    story.primary(0);
    story.cut();
    story.write(0, 5, 3);
    story.primary(1);
    story.write(1, 25, 5);
    story.secondary(0);
    story.secondary(1);
    story.line(
        "alpha: drbdadm down r0; drbdmeta set-gi: the bitmap's generation into the history; drbdadm up r0",
    );
    story.lab.ask(0, AdminRequest::Down).expect("nobody has it open");
    story.lab.nodes[0].forget_bitmap_generation();
    story.lab.attach(0).expect("its own disk");
    story.skip();
    story.lab.mend();
    story.connect(0, false, false);
    story
}

#[test]
fn without_a_common_bitmap() {
    let policy = ("after-sb-0pri", "discard-least-changes");
    let always = [policy, ("always-asbp", "yes")];
    let stories = [
        without_common_bitmap("the policies are not asked", &[policy]).end(),
        without_common_bitmap("with always-asbp they are: everything is copied", &always).end(),
    ];
    compare("always-asbp.txt", include_str!("scenarios/always-asbp.txt"), &stories);
}

#[test]
fn an_administrator_ends_it() {
    let mut stories = Vec::new();
    let parted = |title| {
        let story = split(title, &[], &NOBODY);
        assert_eq!(story.lab.connection(0), ConnectionState::StandAlone);
        story
    };
    let mut story = parted("alpha discards its data");
    story.connect(1, false, false);
    story.connect(0, false, true);
    stories.push(story.end());

    let mut story = parted("both discard theirs: refused");
    story.connect(1, false, true);
    story.connect(0, false, true);
    stories.push(story.end());

    let mut story = parted("a Primary does not discard its data");
    story.primary(0);
    story.connect(0, false, true);
    stories.push(story.end());

    let mut story = parted("first it is asked what would happen");
    story.connect(1, false, false);
    story.connect(0, true, true);
    story.connect(0, false, true);
    stories.push(story.end());

    let mut story = Story::begin("asked without need: they would just connect", &[]);
    story.disconnect(0);
    story.connect(0, true, false);
    story.connect(0, false, false);
    stories.push(story.end());

    let mut story = Story::begin("--discard-my-data turns no ordinary resync round", &[]);
    story.disconnect(0);
    story.primary(0);
    story.write(0, 5, 3);
    story.secondary(0);
    story.connect(0, false, true);
    stories.push(story.end());
    compare("by-hand.txt", include_str!("scenarios/by-hand.txt"), &stories);
}

#[test]
fn a_primary_loses_its_last_good_data() {
    let mut story = Story::begin("alpha, Primary and being synced, loses the network", &[]);
    story.disconnect(0);
    story.primary(1);
    story.write(1, 25, 5);
    story.secondary(1);
    story.lab.hold_packets(1);
    story.lab.begin_connect(0);
    story.lab.pass_ms(600);
    while story.lab.replication(0) != crate::states::ReplicationState::SyncTarget {
        let stream = [crate::wire::Stream::Data, crate::wire::Stream::Control];
        match stream.into_iter().find(|s| story.lab.has_packet(1, *s)) {
            Some(stream) => drop(story.lab.let_packet_go(1, stream)),
            None => story.lab.pass_ms(10),
        }
    }
    story.line("alpha: drbdadm connect r0");
    story.line("alpha: drbdadm primary r0, while it is SyncTarget");
    let ticket = story.lab.begin(0, AdminRequest::Primary { force: false });
    for _ in 0..100 {
        let stream = [crate::wire::Stream::Control];
        if let Some(stream) = stream.into_iter().find(|s| story.lab.has_packet(1, *s)) {
            story.lab.let_packet_go(1, stream);
        }
    }
    assert!(story.lab.nodes[0].replies.contains_key(&ticket), "bravo agreed");
    story.tell();
    story.line("the network fails");
    story.lab.cut();
    story.tell();
    compare("pri-on-incon-degr.txt", include_str!("scenarios/pri-on-incon-degr.txt"), &[story.end()]);
}
