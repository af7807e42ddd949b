//! The command line: `[options] {MINOR | -} FORMAT DEVICE INDEX COMMAND [args]`, options anywhere.
//!
//! clap takes it apart; which word is wrong, and with which text and exit code, is decided here in the order of
//! DRBD's own drbdmeta, because scripts know its messages.

use crate::failure::Failure;
use crate::numbers::{number, Unit};
use clap::{Arg, ArgAction, ArgMatches, Command as Clap};
use drbd_core::metadata::{Format, Index};
use std::ffi::OsString;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    GetGi,
    ShowGi,
    DumpMd,
    ApplyAl,
    WipeMd,
    Outdate,
    Invalidate,
    Dstate,
    ReadDevUuid,
    WriteDevUuid,
    SetGi,
    CreateMd,
    ForgetPeer,
    RepairMd,
    RestoreMd,
    VerifyDump,
    CheckResize,
}

/// How the bitmap is initialised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BitmapInit {
    Automatic,
    ZeroOut,
    Write,
    SetAll,
    Skip,
}

const INIT_WORDS: [(&str, BitmapInit); 5] = [
    ("automatic", BitmapInit::Automatic),
    ("zeroout", BitmapInit::ZeroOut),
    ("pwrite", BitmapInit::Write),
    ("set-all", BitmapInit::SetAll),
    ("skip", BitmapInit::Skip),
];

/// Name, verb, whether it takes `--node-id`, whether it writes.
const VERBS: [(&str, Verb, bool, bool); 18] = [
    ("get-gi", Verb::GetGi, true, false),
    ("show-gi", Verb::ShowGi, true, false),
    ("dump-md", Verb::DumpMd, false, false),
    ("apply-al", Verb::ApplyAl, false, true),
    ("wipe-md", Verb::WipeMd, false, true),
    ("outdate", Verb::Outdate, false, true),
    ("invalidate", Verb::Invalidate, false, true),
    ("dstate", Verb::Dstate, false, false),
    ("read-dev-uuid", Verb::ReadDevUuid, false, false),
    ("write-dev-uuid", Verb::WriteDevUuid, false, true),
    ("set-gi", Verb::SetGi, true, true),
    ("create-md", Verb::CreateMd, false, true),
    ("md-create", Verb::CreateMd, false, true),
    ("forget-peer", Verb::ForgetPeer, true, true),
    ("repair-md", Verb::RepairMd, false, true),
    ("restore-md", Verb::RestoreMd, false, true),
    ("verify-dump", Verb::VerifyDump, false, false),
    ("check-resize", Verb::CheckResize, false, true),
];

/// Commands of DRBD's drbdmeta that this one does not have yet.
const NOT_YET: [&str; 2] = ["dump-superblock", "hexdump-superblock"];

/// Options of create-md.
#[derive(Debug)]
pub(crate) struct CreateOptions {
    pub(crate) peer_max_bio_size: u32,
    pub(crate) al_stripes: u32,
    pub(crate) al_stripe_size_4k: u32,
    pub(crate) al_stripes_given: bool,
    pub(crate) bitmap_block_size: u32,
    pub(crate) initialize_bitmap: BitmapInit,
    pub(crate) effective_size_sectors: u64,
    pub(crate) diskful_peers: u32,
    pub(crate) initial_current_uuid: Option<String>,
    pub(crate) consistent: bool,
    pub(crate) up_to_date: bool,
    pub(crate) peers_outdated: bool,
    pub(crate) rotate_uuids: bool,
}

/// A checked command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) verb: Verb,
    /// `-` or the name of a DRBD device.
    pub(crate) drbd_device: String,
    pub(crate) format: Format,
    pub(crate) device: PathBuf,
    pub(crate) index: Index,
    /// Words after the command.
    pub(crate) rest: Vec<String>,
    pub(crate) node_id: usize,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
    pub(crate) dry_run: bool,
    /// Whether the command may write.
    pub(crate) modifies: bool,
    pub(crate) ignore_sanity_checks: bool,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) create: CreateOptions,
}

/// The words, and the options not yet looked at.
#[derive(Debug)]
pub(crate) struct Words {
    matches: ArgMatches,
    words: Vec<String>,
    pub(crate) verb: Verb,
    name: &'static str,
    takes_node_id: bool,
    pub(crate) format: Format,
    pub(crate) index: Index,
}

/// The usage text, as drbdmeta 9.34 prints it.
pub(crate) fn usage(program: &str) -> String {
    format!("\nUSAGE: {program} {}", include_str!("usage.txt"))
}

/// Reads the words. `Err(None)`: show the usage.
pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Words, Option<Failure>> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() < 4 {
        return Err(None);
    }
    let matches = grammar().try_get_matches_from(arguments).map_err(|_| None)?;
    let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
    let (format, index) = placement(&words)?;
    let Some(command) = words.get(4) else { return Err(Some(Failure::usage("command missing"))) };
    let Some((name, verb, takes_node_id, _)) = VERBS.iter().find(|(name, ..)| name == command) else {
        let message = if NOT_YET.contains(&command.as_str()) {
            format!("The command '{command}' is not part of udrbd's drbdmeta yet.")
        } else {
            format!("Unknown command '{command}'.")
        };
        return Err(Some(Failure::usage(message)));
    };
    let (verb, takes_node_id) = (*verb, *takes_node_id);
    Ok(Words { matches, words, verb, name, takes_node_id, format, index })
}

fn placement(words: &[String]) -> Result<(Format, Index), Failure> {
    let Some(word) = words.get(1) else { return Err(Failure::usage("Format identifier missing")) };
    let format = match word.as_str() {
        "v08" => Format::V08,
        "v09" => Format::V09,
        "v06" | "v07" => {
            return Err(Failure::usage(format!(
                "udrbd neither reads nor converts {word} metadata: convert it to v08 with drbdmeta of drbd-utils first."
            )))
        }
        _ => return Err(Failure::usage(format!("Unknown format '{word}'."))),
    };
    let Some(index) = words.get(3) else { return Err(Failure::usage("Too few arguments for format")) };
    let index = index.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    Ok((format, index))
}

impl Words {
    /// The device word: `-`, a number, `/dev/drbdN`, …
    pub(crate) fn drbd_device(&self) -> &str {
        &self.words[0]
    }

    /// Whether the command writes, as far as the words tell.
    pub(crate) fn modifies(&self) -> bool {
        let writes = VERBS.iter().any(|(_, verb, _, modifies)| *verb == self.verb && *modifies);
        writes && !(self.verb == Verb::RepairMd && self.flag("dry-run"))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.matches.get_flag(name)
    }

    fn value(&self, name: &str) -> Option<&String> {
        self.matches.get_one(name)
    }

    /// Options that are wrong whatever the command.
    pub(crate) fn check_values(&self) -> Result<CreateOptions, Failure> {
        self.check_node_id()?;
        let bio_size = self.number("peer-max-bio-size", Unit::Bytes)?.unwrap_or(0);
        if bio_size > 1 << 20 {
            return Err(Failure::value("peer-max-bio-size out of range (0...1M)"));
        }
        let init = match self.value("initialize-bitmap") {
            Some(word) => bitmap_init(word)?,
            None => BitmapInit::Automatic,
        };
        let diskful = self.value("diskful-peers").map_or(Ok(0), |list| node_mask(list))?;
        Ok(CreateOptions {
            peer_max_bio_size: bio_size as u32,
            al_stripes: self.number("al-stripes", Unit::Bytes)?.map_or(1, saturated),
            al_stripe_size_4k: self
                .number("al-stripe-size-kB", Unit::KiB)?
                .map_or(8, |kib| saturated(kib / 4)),
            al_stripes_given: self.value("al-stripes").is_some() || self.value("al-stripe-size-kB").is_some(),
            bitmap_block_size: self.number("bitmap-block-size", Unit::Bytes)?.map_or(0, saturated),
            initialize_bitmap: init,
            effective_size_sectors: self.number("effective-size", Unit::Sectors)?.unwrap_or(0),
            diskful_peers: diskful,
            initial_current_uuid: self.value("initial-current-uuid").cloned(),
            consistent: self.flag("consistent"),
            up_to_date: self.flag("uptodate"),
            peers_outdated: self.flag("peers-outdated"),
            rotate_uuids: self.flag("rotate-uuids"),
        })
    }

    fn number(&self, name: &str, unit: Unit) -> Result<Option<u64>, Failure> {
        self.value(name).map(|text| number(text, unit)).transpose()
    }

    /// Everything about the options that depends on the command.
    pub(crate) fn finish(self, create: CreateOptions) -> Result<Arguments, Failure> {
        self.refuse_foreign_options(&create)?;
        let blocks = u64::from(create.al_stripes) * u64::from(create.al_stripe_size_4k);
        if blocks > 8192 {
            return Err(Failure::value("invalid (too large) al-stripe* settings"));
        }
        if blocks < 8 {
            return Err(Failure::value("invalid (too small) al-stripe* settings"));
        }
        let node_id = self.node_id()?;
        let modifies = self.modifies();
        let state_dir = self.value("var-lib-drbd").map(PathBuf::from);
        let (force, quiet, dry_run) = (self.flag("force"), self.flag("quiet"), self.flag("dry-run"));
        let ignore_sanity_checks = self.flag("ignore-sanity-checks");
        let mut words = self.words.into_iter();
        let drbd_device = words.next().unwrap_or_default();
        let device = words.nth(1).map(PathBuf::from).unwrap_or_default();
        Ok(Arguments {
            verb: self.verb,
            drbd_device,
            format: self.format,
            device,
            index: self.index,
            rest: words.skip(2).collect(),
            node_id,
            force,
            quiet,
            dry_run,
            modifies,
            ignore_sanity_checks,
            state_dir,
            create,
        })
    }

    fn refuse_foreign_options(&self, create: &CreateOptions) -> Result<(), Failure> {
        let creates = self.verb == Verb::CreateMd;
        let given = |name| self.value(name).is_some();
        if given("output-format") {
            return Err(Failure::value("The -o|--output-format option is only allowed with dump-superblock"));
        }
        if create.peer_max_bio_size != 0 && !creates {
            return Err(Failure::value("The --peer-max-bio-size option is only allowed with create-md"));
        }
        self.check_bitmap_block_size(create.bitmap_block_size)?;
        if create.al_stripes_given && !creates && self.verb != Verb::RestoreMd {
            return Err(Failure::value(
                "The --al-stripe* options are only allowed with create-md and restore-md",
            ));
        }
        if create.effective_size_sectors != 0 && !creates {
            return Err(Failure::value("The -Z|--effective-size option is only allowed with create-md"));
        }
        if create.diskful_peers != 0 && !creates {
            return Err(Failure::value("The -D|--diskful-peers option is only allowed with create-md"));
        }
        let v09_only = [
            (given("initial-current-uuid"), "initial-current-uuid"),
            (create.consistent, "consistent"),
            (create.up_to_date, "uptodate"),
            (create.peers_outdated, "peers-outdated"),
            (create.rotate_uuids, "rotate-uuids"),
        ];
        for (_, name) in v09_only.into_iter().filter(|(set, _)| *set) {
            if !creates {
                return Err(Failure::value(format!("The --{name} option is only allowed with create-md")));
            }
            if self.format == Format::V08 {
                return Err(Failure::value(format!("--{name} is not supported with 'v08'")));
            }
        }
        Ok(())
    }

    fn check_bitmap_block_size(&self, size: u32) -> Result<(), Failure> {
        let Some(text) = self.value("bitmap-block-size") else { return Ok(()) };
        if self.verb != Verb::CreateMd {
            return Err(Failure::value("The --bitmap-block-size option is only allowed with create-md"));
        }
        if self.format == Format::V08 {
            return Err(Failure::value("bitmap-block-size not supported with 'v08'"));
        }
        if size != 0 && !(size.is_power_of_two() && (4096..=1 << 20).contains(&size)) {
            return Err(Failure::value(format!(
                "bitmap-block-size must be a power of 2 within [4k .. 1M], not '{text}'"
            )));
        }
        Ok(())
    }

    /// v08 has one peer and needs no number for it.
    fn node_id(&self) -> Result<usize, Failure> {
        match (self.number("node-id", Unit::Bytes)?, self.takes_node_id) {
            (Some(_), false) => {
                Err(Failure::value(format!("The {} command does not accept the --node-id option", self.name)))
            }
            (None, true) if self.format == Format::V09 => {
                Err(Failure::value(format!("The {} command requires the --node-id option", self.name)))
            }
            (None, _) => Ok(0),
            (Some(node_id), true) => Ok(node_id as usize),
        }
    }

    fn check_node_id(&self) -> Result<(), Failure> {
        match self.number("node-id", Unit::Bytes)? {
            Some(32..) => Err(Failure::value("node-id out of range (0...31)")),
            Some(_) | None => Ok(()),
        }
    }
}

fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn bitmap_init(word: &str) -> Result<BitmapInit, Failure> {
    let found = INIT_WORDS.iter().find(|(name, _)| *name == word);
    found.map(|(_, mode)| *mode).ok_or_else(|| {
        let names: Vec<&str> = INIT_WORDS.iter().map(|(name, _)| *name).collect();
        let names = names.join("|");
        Failure::value(format!("invalid initialize-bitmap mode \"{word}\", should be one of {names}"))
    })
}

/// `0x…` is a mask, anything else a list of node ids.
fn node_mask(list: &str) -> Result<u32, Failure> {
    let bad = || Failure::value(format!("invalid node list / mask value '{list}'"));
    if let Some(hex) = list.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).map_err(|_| bad());
    }
    let mut mask = 0;
    for word in list.split(',') {
        let node_id: u32 = word.parse().map_err(|_| bad())?;
        mask |= 1_u32.checked_shl(node_id).ok_or_else(bad)?;
    }
    Ok(mask)
}

fn grammar() -> Clap {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let value = |name: &'static str| {
        Arg::new(name).long(name).num_args(1).action(ArgAction::Set).overrides_with(name)
    };
    Clap::new("drbdmeta")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        .args_override_self(true)
        .arg(flag("force").short('f'))
        .arg(flag("quiet").short('q'))
        .arg(Arg::new("verbose").long("verbose").short('v').action(ArgAction::Count))
        .arg(flag("ignore-sanity-checks"))
        .arg(flag("dry-run").alias("tentative"))
        .arg(value("peer-max-bio-size").short('p'))
        .arg(value("node-id").short('i'))
        .arg(value("effective-size").short('Z'))
        .arg(value("diskful-peers").short('D'))
        .arg(value("al-stripes").short('s'))
        .arg(value("al-stripe-size-kB").short('z'))
        .arg(value("bitmap-block-size").short('B'))
        .arg(value("initialize-bitmap").short('b'))
        .arg(value("output-format").short('o'))
        .arg(value("initial-current-uuid"))
        .arg(flag("consistent"))
        .arg(flag("uptodate"))
        .arg(flag("peers-outdated"))
        .arg(flag("rotate-uuids"))
        .arg(value("var-lib-drbd"))
        .arg(Arg::new("words").num_args(0..).action(ArgAction::Append))
}

#[cfg(test)]
mod tests;
