//! THE option table: name, section, type, range and default of every option, once. Parsing, help, `show` and the
//! typed options of the engine all come from here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Which command takes an option.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// `new-resource`, `resource-options`; config section `options`.
    Resource,
    /// `new-peer`, `net-options`; config section `net`.
    Net,
    /// `attach`, `disk-options`; config section `disk`.
    Disk,
    /// `new-minor`; config section `disk`.
    Device,
    /// `peer-device-options`; config section `disk`.
    PeerDevice,
}

/// Type, range and default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `yes` or `no`.
    Boolean {
        /// Default.
        default: bool,
    },
    /// A number in the default prefix.
    Number {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
        /// Default.
        default: i64,
        /// Default prefix: `'1'`, `'k'` or `'s'` (512-byte sectors).
        prefix: char,
        /// Unit shown by `show`, empty for none.
        unit: &'static str,
    },
    /// One of these words; the first is not necessarily the default.
    Word {
        /// Allowed values.
        values: &'static [&'static str],
        /// Default.
        default: &'static str,
    },
    /// One of these words or a number.
    WordOrNumber {
        /// Allowed words.
        values: &'static [&'static str],
        /// Smallest number.
        min: i64,
        /// Largest number.
        max: i64,
        /// Default.
        default: &'static str,
    },
    /// Free text.
    Text {
        /// Longest, in bytes.
        max_len: usize,
    },
}

/// One option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionSpec {
    /// Spelling in files and on command lines.
    pub name: &'static str,
    /// Where it belongs.
    pub section: Section,
    /// Type, range and default.
    pub kind: Kind,
}

const fn boolean(section: Section, name: &'static str, default: bool) -> OptionSpec {
    OptionSpec { name, section, kind: Kind::Boolean { default } }
}

const fn number(
    section: Section,
    name: &'static str,
    min: i64,
    max: i64,
    default: i64,
    prefix: char,
    unit: &'static str,
) -> OptionSpec {
    OptionSpec { name, section, kind: Kind::Number { min, max, default, prefix, unit } }
}

const fn word(
    section: Section,
    name: &'static str,
    values: &'static [&'static str],
    default: &'static str,
) -> OptionSpec {
    OptionSpec { name, section, kind: Kind::Word { values, default } }
}

const fn quorum(name: &'static str) -> OptionSpec {
    OptionSpec {
        name,
        section: Resource,
        kind: Kind::WordOrNumber { values: &["off", "majority", "all"], min: 1, max: 32, default: "off" },
    }
}

const fn text(section: Section, name: &'static str, max_len: usize) -> OptionSpec {
    OptionSpec { name, section, kind: Kind::Text { max_len } }
}

use Section::{Device, Disk, Net, PeerDevice, Resource};

/// Every option, in the order in which DRBD lists them.
pub const OPTIONS: &[OptionSpec] = &[
    text(Resource, "cpu-mask", 127),
    word(Resource, "on-no-data-accessible", &["io-error", "suspend-io"], "io-error"),
    boolean(Resource, "auto-promote", true),
    number(Resource, "peer-ack-window", 2048, 204_800, 4096, 's', "bytes"),
    number(Resource, "peer-ack-delay", 1, 10_000, 100, '1', "milliseconds"),
    number(Resource, "twopc-timeout", 50, 600, 300, '1', "1/10 seconds"),
    number(Resource, "twopc-retry-timeout", 1, 50, 1, '1', "1/10 seconds"),
    number(Resource, "auto-promote-timeout", 0, 600, 20, '1', "1/10 seconds"),
    number(Resource, "max-io-depth", 4, 4_294_967_295, 8000, '1', ""),
    quorum("quorum"),
    word(Resource, "on-no-quorum", &["io-error", "suspend-io"], "suspend-io"),
    quorum("quorum-minimum-redundancy"),
    word(Resource, "on-suspended-primary-outdated", &["disconnect", "force-secondary"], "disconnect"),
    boolean(Resource, "drbd8-api-compatibility", false),
    text(Net, "transport", 127),
    boolean(Net, "load-balance-paths", false),
    word(Net, "protocol", &["A", "B", "C"], "C"),
    number(Net, "timeout", 1, 600, 60, '1', "1/10 seconds"),
    number(Net, "max-epoch-size", 1, 20_000, 2048, '1', ""),
    number(Net, "connect-int", 1, 120, 10, '1', "seconds"),
    number(Net, "ping-int", 1, 120, 10, '1', "seconds"),
    number(Net, "sndbuf-size", 0, 134_217_728, 0, '1', "bytes"),
    number(Net, "rcvbuf-size", 0, 134_217_728, 0, '1', "bytes"),
    number(Net, "ko-count", 0, 200, 7, '1', ""),
    boolean(Net, "allow-two-primaries", false),
    text(Net, "cram-hmac-alg", 63),
    text(Net, "shared-secret", 63),
    word(
        Net,
        "after-sb-0pri",
        &[
            "disconnect",
            "discard-younger-primary",
            "discard-older-primary",
            "discard-zero-changes",
            "discard-least-changes",
            "discard-local",
            "discard-remote",
        ],
        "disconnect",
    ),
    word(
        Net,
        "after-sb-1pri",
        &["disconnect", "consensus", "discard-secondary", "call-pri-lost-after-sb", "violently-as0p"],
        "disconnect",
    ),
    word(Net, "after-sb-2pri", &["disconnect", "call-pri-lost-after-sb", "violently-as0p"], "disconnect"),
    boolean(Net, "always-asbp", false),
    word(
        Net,
        "rr-conflict",
        &["disconnect", "call-pri-lost", "violently", "retry-connect", "auto-discard"],
        "disconnect",
    ),
    number(Net, "ping-timeout", 1, 300, 5, '1', "1/10 seconds"),
    text(Net, "data-integrity-alg", 63),
    boolean(Net, "tcp-cork", true),
    word(Net, "on-congestion", &["block", "pull-ahead", "disconnect"], "block"),
    number(Net, "congestion-fill", 0, 20_971_520, 0, 's', "bytes"),
    number(Net, "congestion-extents", 67, 65_534, 1237, '1', ""),
    text(Net, "csums-alg", 63),
    boolean(Net, "csums-after-crash-only", false),
    text(Net, "verify-alg", 63),
    boolean(Net, "use-rle", true),
    number(Net, "socket-check-timeout", 0, 300, 0, '1', ""),
    word(Net, "fencing", &["dont-care", "resource-only", "resource-and-stonith"], "dont-care"),
    number(Net, "max-buffers", 32, 131_072, 2048, '1', ""),
    boolean(Net, "allow-remote-read", true),
    boolean(Net, "tls", false),
    text(Net, "tls-keyring", 127),
    text(Net, "tls-privkey", 127),
    text(Net, "tls-certificate", 127),
    number(Net, "rdma-ctrl-rcvbuf-size", 0, 10_485_760, 0, '1', ""),
    number(Net, "rdma-ctrl-sndbuf-size", 0, 10_485_760, 0, '1', ""),
    text(Net, "_name", 255),
    number(Disk, "size", 0, 2_199_023_255_552, 0, 's', "bytes"),
    word(Disk, "on-io-error", &["pass_on", "call-local-io-error", "detach"], "detach"),
    boolean(Disk, "disk-barrier", false),
    boolean(Disk, "disk-flushes", true),
    boolean(Disk, "disk-drain", true),
    boolean(Disk, "md-flushes", true),
    number(Disk, "resync-after", -1, 1_048_575, -1, '1', ""),
    number(Disk, "al-extents", 67, 65_534, 1237, '1', ""),
    boolean(Disk, "al-updates", true),
    boolean(Disk, "discard-zeroes-if-aligned", true),
    boolean(Disk, "disable-write-same", false),
    number(Disk, "disk-timeout", 0, 6000, 0, '1', "1/10 seconds"),
    word(
        Disk,
        "read-balancing",
        &[
            "prefer-local",
            "prefer-remote",
            "round-robin",
            "least-pending",
            "when-congested-remote",
            "32K-striping",
            "64K-striping",
            "128K-striping",
            "256K-striping",
            "512K-striping",
            "1M-striping",
        ],
        "prefer-local",
    ),
    number(Disk, "rs-discard-granularity", 0, 1_048_576, 0, '1', "bytes"),
    number(Device, "max-bio-size", 512, 1_048_576, 1_048_576, '1', ""),
    boolean(Device, "diskless", false),
    number(Device, "block-size", 512, 4096, 512, '1', ""),
    number(Device, "discard-granularity", 0, 134_217_728, 4_294_967_295, '1', ""),
    number(PeerDevice, "resync-rate", 1, 8_388_608, 250, 'k', "bytes/second"),
    number(PeerDevice, "c-plan-ahead", 0, 300, 20, '1', "1/10 seconds"),
    number(PeerDevice, "c-delay-target", 1, 100, 10, '1', "1/10 seconds"),
    number(PeerDevice, "c-fill-target", 0, 1_048_576, 100, 's', "bytes"),
    number(PeerDevice, "c-max-rate", 0, 4_194_304, 102_400, 'k', "bytes/second"),
    number(PeerDevice, "c-min-rate", 0, 4_194_304, 250, 'k', "bytes/second"),
    boolean(PeerDevice, "bitmap", true),
    boolean(PeerDevice, "resync-without-replication", true),
    boolean(PeerDevice, "peer-tiebreaker", true),
];

impl OptionSpec {
    /// The option of that name (names are unique across sections).
    pub fn find(name: &str) -> Option<&'static OptionSpec> {
        OPTIONS.iter().find(|o| o.name == name)
    }

    /// The options of one section.
    pub fn of(section: Section) -> impl Iterator<Item = &'static OptionSpec> {
        OPTIONS.iter().filter(move |o| o.section == section)
    }

    /// The value that counts when nothing is said.
    pub fn default_value(&self) -> OptionValue {
        match self.kind {
            Kind::Boolean { default } => OptionValue::Boolean(default),
            Kind::Number { default, .. } => OptionValue::Number(default),
            Kind::Word { default, .. } | Kind::WordOrNumber { default, .. } => {
                OptionValue::Text(default.to_owned())
            }
            Kind::Text { .. } => OptionValue::Text(String::new()),
        }
    }

    /// Reads a value as written in a file or on a command line.
    pub fn parse(&self, text: &str) -> Result<OptionValue, OptionError> {
        let wrong = |what| OptionError { option: self.name.to_owned(), value: text.to_owned(), what };
        match self.kind {
            Kind::Boolean { .. } => match text {
                "yes" | "" => Ok(OptionValue::Boolean(true)),
                "no" => Ok(OptionValue::Boolean(false)),
                _ => Err(wrong(ValueFault::NotBoolean)),
            },
            Kind::Number { min, max, prefix, .. } => {
                let number = parse_number(text, prefix).ok_or_else(|| wrong(ValueFault::NotNumber))?;
                if number < min {
                    return Err(wrong(ValueFault::TooSmall { min }));
                }
                if number > max {
                    return Err(wrong(ValueFault::TooBig { max }));
                }
                Ok(OptionValue::Number(number))
            }
            Kind::Word { values, .. } => {
                if values.contains(&text) {
                    Ok(OptionValue::Text(text.to_owned()))
                } else {
                    Err(wrong(ValueFault::NotOneOf(values)))
                }
            }
            Kind::WordOrNumber { values, min, max, .. } => match parse_number(text, '1') {
                Some(number) if number < min => Err(wrong(ValueFault::TooSmall { min })),
                Some(number) if number > max => Err(wrong(ValueFault::TooBig { max })),
                None if !values.contains(&text) => Err(wrong(ValueFault::NotOneOf(values))),
                Some(_) | None => Ok(OptionValue::Text(text.to_owned())),
            },
            Kind::Text { max_len } => {
                if text.len() > max_len {
                    return Err(wrong(ValueFault::TooLong { max_len }));
                }
                Ok(OptionValue::Text(text.to_owned()))
            }
        }
    }
}

/// Reads `12`, `12k`, `4M`, `1G` or `8s` as a number counted in `prefix`, rounding up when it divides.
fn parse_number(text: &str, prefix: char) -> Option<i64> {
    let (digits, suffix) = match text.char_indices().last() {
        Some((at, c)) if c.is_ascii_alphabetic() => (&text[..at], Some(c.to_ascii_lowercase())),
        _ => (text, None),
    };
    if digits.starts_with('+') {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    let unit = |c| -> Option<i64> {
        Some(match c {
            '1' => 1,
            's' => 512,
            'k' => 1 << 10,
            'm' => 1 << 20,
            'g' => 1 << 30,
            _ => return None,
        })
    };
    match suffix {
        None => Some(number),
        Some(c) => {
            let bytes = number.checked_mul(unit(c)?)?;
            let per = unit(prefix)?;
            Some(bytes.checked_add(per - 1)? / per)
        }
    }
}

/// The value of an option; numbers are counted in the option's default prefix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// yes or no.
    Boolean(bool),
    /// A number.
    Number(i64),
    /// A word or text.
    Text(String),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::Boolean(true) => f.write_str("yes"),
            OptionValue::Boolean(false) => f.write_str("no"),
            OptionValue::Number(n) => write!(f, "{n}"),
            OptionValue::Text(t) => f.write_str(t),
        }
    }
}

/// What is wrong with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueFault {
    /// Neither yes nor no.
    NotBoolean,
    /// Not a number with an optional s, K, M or G.
    NotNumber,
    /// Below the range.
    TooSmall {
        /// Smallest.
        min: i64,
    },
    /// Above the range.
    TooBig {
        /// Largest.
        max: i64,
    },
    /// Not one of the words.
    NotOneOf(&'static [&'static str]),
    /// Too long.
    TooLong {
        /// Longest, in bytes.
        max_len: usize,
    },
}

/// A value that an option cannot take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionError {
    /// The option.
    pub option: String,
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub what: ValueFault,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a value for {}: ", self.value, self.option)?;
        match self.what {
            ValueFault::NotBoolean => f.write_str("say yes or no"),
            ValueFault::NotNumber => f.write_str("a number is needed"),
            ValueFault::TooSmall { min } => write!(f, "the smallest is {min}"),
            ValueFault::TooBig { max } => write!(f, "the largest is {max}"),
            ValueFault::NotOneOf(values) => write!(f, "allowed are {}", values.join(" | ")),
            ValueFault::TooLong { max_len } => write!(f, "at most {max_len} characters"),
        }
    }
}

impl std::error::Error for OptionError {}

/// Options that were set; all others have their defaults.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OptionSet(BTreeMap<String, OptionValue>);

impl OptionSet {
    /// Sets an option to a value as written.
    pub fn set(&mut self, spec: &OptionSpec, text: &str) -> Result<(), OptionError> {
        self.0.insert(spec.name.to_owned(), spec.parse(text)?);
        Ok(())
    }

    /// Whether the option was set (possibly to its default).
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The options that were set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OptionValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value that counts: set or default.
    ///
    /// # Panics
    /// If `name` is not in the table: option names are spelled in the code only.
    pub fn value(&self, name: &str) -> OptionValue {
        match self.0.get(name) {
            Some(value) => value.clone(),
            None => OptionSpec::find(name).expect("an option of the table").default_value(),
        }
    }

    /// Takes over everything `other` sets; with `set_defaults` everything it does not set returns to its default.
    pub fn merge(&mut self, other: &OptionSet, set_defaults: bool) {
        if set_defaults {
            self.0.retain(|name, _| name == "_name");
        }
        self.0.extend(other.0.iter().map(|(n, v)| (n.clone(), v.clone())));
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        matches!(self.value(name), OptionValue::Boolean(true))
    }

    pub(super) fn unsigned(&self, name: &str) -> u64 {
        match self.value(name) {
            OptionValue::Number(n) => u64::try_from(n).unwrap_or(0),
            OptionValue::Boolean(_) | OptionValue::Text(_) => 0,
        }
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(OptionValue::Text(text)) => text,
            _ => match OptionSpec::find(name).map(|o| o.kind) {
                Some(Kind::Word { default, .. } | Kind::WordOrNumber { default, .. }) => default,
                _ => "",
            },
        }
    }
}
