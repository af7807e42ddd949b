//! What is on the device: nothing, something damaged, or metadata checked against the device.

use crate::arguments::{Arguments, Verb};
use crate::device::{Buffer, Device, Use};
use crate::failure::{exit, Failure};
use crate::last_known::LastKnown;
use crate::minor::minor_of;
use crate::places::state_dir;
use crate::terminal::{say, Terminal};
use drbd_core::ids::Sector;
use drbd_core::metadata::{
    older_format, Format, Geometry, Index, Layout, MetadataError, Place, SuperBlock, BLOCK_BYTES,
};

/// DRBD looks at this much for foreign data.
pub(crate) const LOOKED_AT_BYTES: usize = 68 << 10;

/// The device and what was asked of it.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) terminal: &'a Terminal,
    pub(crate) device: Device,
    pub(crate) super_block_offset_bytes: u64,
    pub(crate) found: Found,
}

/// What is at the place of the super block.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    Damaged(MetadataError),
    Metadata(Box<SuperBlock>),
}

impl<'a> Opened<'a> {
    /// Opens the device and reads the super block.
    pub(crate) fn open(arguments: &'a Arguments, terminal: &'a Terminal) -> Result<Opened<'a>, Failure> {
        let use_ = Use {
            modifies: arguments.modifies,
            refuse_busy: arguments.verb == Verb::ApplyAl,
            dry_run: arguments.dry_run,
        };
        let device = Device::open(&arguments.device, arguments.index, use_, terminal)?;
        let name = arguments.device.display();
        let size = device.size_bytes;
        let offset = arguments.index.super_block_offset_bytes(size).map_err(|error| match error {
            MetadataError::TooSmall { .. } => {
                Failure::value(format!("{name} is only {size} bytes. That's not enough."))
            }
            MetadataError::IndexBeyondEnd { offset_bytes, .. } => Failure::value(format!(
                "Device too small: expecting meta data block at\nbyte offset {offset_bytes}, but {name} is only {size} bytes."
            )),
            other => Failure::value(format!("{name}: {other}")),
        })?;
        let mut opened =
            Opened { arguments, terminal, device, super_block_offset_bytes: offset, found: Found::Nothing };
        opened.found = opened.look_at(offset, arguments.index)?;
        Ok(opened)
    }

    /// Looks for metadata with its super block there. Metadata too old to be read ends the command.
    pub(crate) fn look_at(&self, offset_bytes: u64, index: Index) -> Result<Found, Failure> {
        let bytes = self.device.read(offset_bytes, BLOCK_BYTES)?;
        let Some(block) = bytes.as_slice().first_chunk() else { return Ok(Found::Nothing) };
        let size = self.device.size_bytes;
        Ok(match SuperBlock::decode(block) {
            Ok(None) => match older_format(block) {
                Some(name) => return Err(self.too_old(name, offset_bytes)),
                None => Found::Nothing,
            },
            Ok(Some(super_block)) => match Place::of(&super_block, index, size, size) {
                Ok(_) => Found::Metadata(Box::new(super_block)),
                Err(error) => Found::Damaged(error),
            },
            Err(error) => Found::Damaged(error),
        })
    }

    pub(crate) fn too_old(&self, name: &str, offset_bytes: u64) -> Failure {
        let device = self.arguments.device.display();
        Failure::usage(format!(
            "{device} has {name} metadata at byte offset {offset_bytes}, which udrbd does not convert: \
             convert it to v08 with drbdmeta of drbd-utils, or zero that block to give it up."
        ))
    }

    /// The metadata that a command other than create-md works on. `complain`: also say so if there is nothing at all.
    pub(crate) fn existing(&mut self, complain: bool) -> Result<SuperBlock, Failure> {
        let device = self.arguments.device.display();
        let message = match &self.found {
            Found::Nothing if complain => "No valid meta data found".to_owned(),
            Found::Nothing => String::new(),
            Found::Damaged(error) => format!("No valid meta data found on {device}: {error}"),
            Found::Metadata(super_block) => match (self.arguments.format, super_block.format) {
                (Format::V08, Format::V09) => {
                    format!("No valid meta data found on {device}: v08 was asked for, there is v09")
                }
                (asked, found) => {
                    if asked != found {
                        self.terminal.note(format_args!("# {device} has v08 meta data, working on that"));
                    }
                    let mut super_block = SuperBlock::clone(super_block);
                    self.clip_size(&mut super_block)?;
                    return Ok(super_block);
                }
            },
        };
        Err(Failure::new(exit::NOT_DONE, message))
    }

    /// The size agreed with the peer cannot be more than what is left for data.
    pub(crate) fn clip_size(&self, super_block: &mut SuperBlock) -> Result<(), Failure> {
        let index = self.arguments.index;
        let geometry = Geometry::of(super_block);
        let usable = self.layout(&geometry)?.usable_sectors(index, &geometry);
        let agreed = super_block.effective_size;
        if agreed > usable {
            say(format_args!("# la-size-sect was too big ({agreed}), truncated ({usable})!"))?;
            super_block.effective_size = usable;
        }
        Ok(())
    }

    /// The layout for this device.
    pub(crate) fn layout(&self, geometry: &Geometry) -> Result<Layout, Failure> {
        Layout::new(self.arguments.index, self.device.size_bytes, geometry)
            .map_err(|error| Failure::value(format!("{}: {error}", self.arguments.device.display())))
    }

    /// Where the parts are, the bitmap only as far as the agreed size needs it.
    pub(crate) fn place(&self, super_block: &SuperBlock) -> Result<Place, Failure> {
        let agreed_bytes = Sector(super_block.effective_size).bytes();
        Place::of(super_block, self.arguments.index, self.device.size_bytes, agreed_bytes)
            .map_err(|error| Failure::value(format!("{}: {error}", self.arguments.device.display())))
    }

    /// Writes the super block to stable storage and remembers where it is.
    pub(crate) fn write_super_block(&self, super_block: &SuperBlock) -> Result<(), Failure> {
        let mut buffer = Buffer::new(BLOCK_BYTES);
        if let Some(block) = buffer.as_mut().first_chunk_mut() {
            super_block.encode(block);
        }
        self.device.write(self.super_block_offset_bytes, &buffer)?;
        self.device.flush()?;
        self.remember(super_block.device_uuid);
        Ok(())
    }

    /// Makes whatever is at the place of the super block invalid.
    pub(crate) fn erase_super_block(&self) -> Result<(), Failure> {
        self.device.write(self.super_block_offset_bytes, &Buffer::new(BLOCK_BYTES))?;
        self.device.flush()
    }

    /// Remembers where it is, if it could move; else there is nothing to remember.
    pub(crate) fn remember(&self, device_uuid: u64) {
        let saved = self.last_known().map_or(Ok(()), |file| {
            if self.arguments.index.is_internal() {
                file.save(self.device.size_bytes, &self.arguments.device, device_uuid)
            } else {
                file.delete()
            }
        });
        self.note_failed(saved);
    }

    /// The metadata is gone.
    pub(crate) fn forget(&self) {
        let deleted = self.last_known().map_or(Ok(()), |file| file.delete());
        self.note_failed(deleted);
    }

    pub(crate) fn last_known(&self) -> Option<LastKnown> {
        if self.arguments.dry_run {
            return None;
        }
        let dir = self.arguments.state_dir.clone().or_else(state_dir)?;
        Some(LastKnown::of(&dir, minor_of(&self.arguments.drbd_device)))
    }

    /// The metadata itself is good, so this is no failure.
    fn note_failed(&self, result: Result<(), String>) {
        if let Err(message) = result {
            self.terminal.note(format_args!("{message}"));
        }
    }
}
