//! Option sections: `options`, `net`, `disk`, `startup`, `handlers`, `proxy`, `syncer`, `global`.
//!
//! Names, ranges and words come from THE option table of `drbd-core`; only the few keywords that are not options of
//! drbdsetup are listed here.

use super::{Abort, Parsed, Parser};
use crate::lexer::Token;
use crate::syntax::{DiskSettings, Global, ProxySettings, Sections, Settings, Text};
use drbd_core::config::options::{Kind, OptionSpec, Section, ValueFault};

/// Handlers, in the order DRBD lists them.
const HANDLERS: &[&str] = &[
    "pri-on-incon-degr",
    "pri-lost-after-sb",
    "pri-lost",
    "initial-split-brain",
    "split-brain",
    "outdate-peer",
    "fence-peer",
    "unfence-peer",
    "local-io-error",
    "before-resync-target",
    "after-resync-target",
    "before-resync-source",
    "out-of-sync",
    "quorum-lost",
    "disconnected",
];

const STARTUP: &[&str] = &[
    "wfc-timeout",
    "degr-wfc-timeout",
    "outdated-wfc-timeout",
    "wait-after-sb",
    "stacked-timeouts",
    "become-primary-on",
];

const GLOBAL: &[&str] = &[
    "usage-count",
    "minor-count",
    "dialog-refresh",
    "cmd-timeout-short",
    "cmd-timeout-medium",
    "cmd-timeout-long",
    "disable-ip-verification",
    "udev-always-use-vnr",
];

const PROXY: &[&str] = &[
    "memlimit",
    "read-loops",
    "compression",
    "bwlimit",
    "sndbuf-size",
    "rcvbuf-size",
    "ping-timeout",
    "plugin",
];

/// Accepted by DRBD 9 for the sake of old files, and dropped.
const DROPPED: &[&str] = &["max-bio-bvecs", "use-bmbv", "unplug-watermark"];

/// An option of the table as a section names it, `no-` in front of a boolean included.
fn lookup(word: &str, sections: &[Section]) -> Option<(&'static OptionSpec, bool)> {
    let of = |name: &str| OptionSpec::find(name).filter(|o| sections.contains(&o.section));
    if let Some(spec) = of(word) {
        return Some((spec, false));
    }
    let spec = of(word.strip_prefix("no-")?)?;
    matches!(spec.kind, Kind::Boolean { .. }).then_some((spec, true))
}

fn names(sections: &[Section]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for section in sections {
        names.extend(OptionSpec::of(*section).map(|o| o.name).filter(|n| !n.starts_with('_')));
    }
    names
}

impl Parser<'_> {
    /// `{ option value; … }` with the options of one section of the table.
    pub(super) fn settings(&mut self, section: Section) -> Parsed<Settings> {
        let mut settings = Settings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword("an option keyword")?;
            match lookup(&word.value, &[section]) {
                Some((spec, negated)) => self.setting(&mut settings, spec, negated, &word)?,
                None if DROPPED.contains(&word.value.as_str()) => self.dropped()?,
                None => {
                    return Err(self.unexpected_word(&word, "an option keyword", false, &names(&[section])))
                }
            }
        }
        Ok(settings)
    }

    /// One option whose name was read: its value, checked, and the semicolon.
    fn setting(&mut self, into: &mut Settings, spec: &OptionSpec, no: bool, name: &Text) -> Parsed<()> {
        let bare = *self.peek() == Token::Punctuation(';');
        let value = match (no, bare, spec.kind) {
            (true, ..) => Text { value: "no".to_owned(), at: name.at },
            (false, true, Kind::Boolean { .. }) => Text { value: "yes".to_owned(), at: name.at },
            _ => self.string("an option value")?,
        };
        if !goes_unchecked(spec, &value.value) {
            self.check(spec, &value);
        }
        into.push(spec.name, Some(value.value), name.at);
        self.expect(';')
    }

    fn check(&mut self, spec: &OptionSpec, value: &Text) {
        let Err(error) = spec.parse(&value.value) else { return };
        let (fault, hint) = match error.what {
            ValueFault::NotBoolean => ("Value is not 'yes' or 'no'.".to_owned(), None),
            ValueFault::NotNumber => ("Value is not a number.".to_owned(), None),
            ValueFault::TooSmall { min } => {
                ("Value is too small.".to_owned(), Some(format!("at least {min}")))
            }
            ValueFault::TooBig { max } => ("Value is too big.".to_owned(), Some(format!("at most {max}"))),
            ValueFault::NotOneOf(words) => (
                format!("Value is not valid.\nAllowed values are: {}", words.join(" | ")),
                crate::diagnostics::did_you_mean(&value.value, words.iter().copied()),
            ),
            ValueFault::TooLong { max_len } => (format!("Value is too long.\nmax len: {max_len}"), None),
        };
        self.bad_value(spec.name, value, &fault, hint);
    }

    fn dropped(&mut self) -> Parsed<()> {
        if *self.peek() != Token::Punctuation(';') {
            self.string("an option value")?;
        }
        self.expect(';')
    }

    /// `disk { }`: options of three kinds, and 8.4's `fencing`, which is a net option now.
    pub(super) fn disk_settings(&mut self, fencing: Option<&mut Settings>) -> Parsed<DiskSettings> {
        const ALL: [Section; 3] = [Section::Device, Section::Disk, Section::PeerDevice];
        let mut disk = DiskSettings::default();
        let mut moved = Settings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&names(&[Section::PeerDevice]).join(" | "))?;
            let found = match lookup(&word.value, &ALL) {
                None if word.value == "fencing" && fencing.is_some() => lookup("fencing", &[Section::Net]),
                found => found,
            };
            let Some((spec, negated)) = found else {
                if DROPPED.contains(&word.value.as_str()) {
                    self.dropped()?;
                    continue;
                }
                let expected = names(&[Section::PeerDevice]).join(" | ");
                return Err(self.unexpected_word(&word, &expected, false, &names(&ALL)));
            };
            let into = match spec.section {
                Section::Device => &mut disk.device,
                // `attach` takes it as well, and DRBD looks there first.
                _ if spec.name == "bitmap" => &mut disk.backing,
                Section::Disk => &mut disk.backing,
                Section::PeerDevice => &mut disk.peer_device,
                Section::Net | Section::Resource => &mut moved,
            };
            self.setting(into, spec, negated, &word)?;
        }
        if let Some(net) = fencing {
            net.0.extend(moved.0);
        }
        Ok(disk)
    }

    /// `startup { }`.
    pub(super) fn startup(&mut self) -> Parsed<Settings> {
        let mut settings = Settings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&STARTUP.join(" | "))?;
            match word.value.as_str() {
                name @ ("wfc-timeout" | "degr-wfc-timeout" | "outdated-wfc-timeout") => {
                    let seconds = self.number(name, 0..=300_000)?;
                    settings.push(name, Some(seconds.to_string()), word.at);
                }
                "wait-after-sb" => self.wait_after_sb(&mut settings, &word)?,
                "stacked-timeouts" => settings.push("stacked-timeouts", None, word.at),
                "become-primary-on" => {
                    while *self.peek() != Token::Punctuation(';') {
                        self.string("host name")?;
                    }
                }
                _ => return Err(self.unexpected_word(&word, &STARTUP.join(" | "), false, STARTUP)),
            }
            self.expect(';')?;
        }
        Ok(settings)
    }

    fn wait_after_sb(&mut self, settings: &mut Settings, name: &Text) -> Parsed<()> {
        let mut answer = "yes".to_owned();
        if *self.peek() != Token::Punctuation(';') {
            let value = self.string("an option value")?;
            if !matches!(value.value.as_str(), "yes" | "no") {
                self.bad_value("wait-after-sb", &value, "Value is not 'yes' or 'no'.", None);
            }
            answer = value.value;
        }
        settings.push("wait-after-sb", Some(answer), name.at);
        Ok(())
    }

    /// `handlers { }`.
    pub(super) fn handlers(&mut self) -> Parsed<Settings> {
        let mut settings = Settings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&HANDLERS.join(" | "))?;
            if !HANDLERS.contains(&word.value.as_str()) {
                return Err(self.unexpected_word(&word, &HANDLERS.join(" | "), false, HANDLERS));
            }
            let command = self.string("a command")?;
            settings.push(&word.value, Some(command.value), word.at);
            self.expect(';')?;
        }
        Ok(settings)
    }

    /// `proxy { }` of a resource; its numbers are drbd-proxy's business.
    pub(super) fn proxy_settings(&mut self) -> Parsed<ProxySettings> {
        let mut proxy = ProxySettings::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&PROXY.join(" | "))?;
            if word.value == "plugin" {
                proxy.plugins = self.plugins()?;
                continue;
            }
            if !PROXY.contains(&word.value.as_str()) {
                return Err(self.unexpected_word(&word, &PROXY.join(" | "), false, PROXY));
            }
            let value = self.string("an option value")?;
            proxy.options.push(&word.value, Some(value.value), word.at);
            self.expect(';')?;
        }
        Ok(proxy)
    }

    fn plugins(&mut self) -> Parsed<Vec<String>> {
        let mut lines = Vec::new();
        self.expect('{')?;
        while !self.block_ends() {
            let mut words = Vec::new();
            while !self.accept(';') {
                words.push(self.string("a plugin")?.value);
            }
            lines.push(words.join(" "));
        }
        Ok(lines)
    }

    /// 8.3's `syncer { }`: its options live elsewhere now.
    pub(super) fn syncer(&mut self, sections: &mut Sections) -> Parsed<()> {
        self.expect('{')?;
        while !self.block_ends() {
            let mut word = self.keyword("a syncer option keyword")?;
            match word.value.as_str() {
                "rate" => word.value = "resync-rate".to_owned(),
                "after" => word.value = "resync-after".to_owned(),
                _ => {}
            }
            let Some((spec, negated)) = lookup(&word.value, &SYNCER_SECTIONS) else {
                let known = names(&SYNCER_SECTIONS);
                return Err(self.unexpected_word(&word, "a syncer option keyword", false, &known));
            };
            let into = match spec.section {
                Section::Resource => &mut sections.options,
                Section::Net => &mut sections.net,
                Section::Disk => &mut sections.disk.backing,
                Section::Device => &mut sections.disk.device,
                Section::PeerDevice => &mut sections.disk.peer_device,
            };
            self.setting(into, spec, negated, &word)?;
        }
        Ok(())
    }

    /// `global { }`.
    pub(super) fn global(&mut self) -> Parsed<Global> {
        let mut global = Global::default();
        self.expect('{')?;
        while !self.block_ends() {
            let word = self.keyword(&GLOBAL.join(" | "))?;
            match word.value.as_str() {
                "usage-count" => global.usage_count = Some(self.usage_count()?),
                "minor-count" => global.minor_count = Some(self.number("minor-count", 1..=255)?),
                "dialog-refresh" => global.dialog_refresh = Some(self.number("dialog-refresh", 0..=600)?),
                name @ "cmd-timeout-short" => global.cmd_timeout_short_s = Some(self.number(name, 0..=900)?),
                name @ "cmd-timeout-medium" => {
                    global.cmd_timeout_medium_s = Some(self.number(name, 0..=900)?);
                }
                name @ "cmd-timeout-long" => global.cmd_timeout_long_s = Some(self.number(name, 0..=900)?),
                "disable-ip-verification" => global.disable_ip_verification = true,
                "udev-always-use-vnr" => global.udev_always_use_vnr = true,
                _ => return Err(self.unexpected_word(&word, &GLOBAL.join(" | "), false, GLOBAL)),
            }
            self.expect(';')?;
        }
        Ok(global)
    }

    fn usage_count(&mut self) -> Parsed<String> {
        let value = self.string("yes | no | ask")?;
        if !matches!(value.value.as_str(), "yes" | "no" | "ask") {
            let allowed = "Value is not valid.\nAllowed values are: yes | no | ask";
            self.bad_value("usage-count", &value, allowed, None);
        }
        Ok(value.value)
    }

    /// A section that `common` and resources share; `false` if the word is none.
    pub(super) fn shared_section(&mut self, word: &Text, sections: &mut Sections) -> Result<bool, Abort> {
        match word.value.as_str() {
            "options" => sections.options.0.extend(self.settings(Section::Resource)?.0),
            "net" => sections.net.0.extend(self.settings(Section::Net)?.0),
            "startup" => sections.startup.0.extend(self.startup()?.0),
            "handlers" => sections.handlers.0.extend(self.handlers()?.0),
            "syncer" => self.syncer(sections)?,
            "proxy" => sections.proxy = self.proxy_settings()?,
            "protocol" => {
                if let Some((spec, _)) = lookup("protocol", &[Section::Net]) {
                    self.setting(&mut sections.net, spec, false, word)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

const SYNCER_SECTIONS: [Section; 4] = [Section::PeerDevice, Section::Disk, Section::Net, Section::Resource];

/// Values whose form only the whole configuration can judge.
fn goes_unchecked(spec: &OptionSpec, value: &str) -> bool {
    spec.name == "resync-after" || spec.name == "after-sb-0pri" && value.starts_with("discard-node-")
}
