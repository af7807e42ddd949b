//! What can be wrong with metadata or with the request to make some: one clear sentence each.
//!
//! The core does not know the name of the device; callers put it in front.

use std::fmt;

/// Why metadata cannot be used or made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetadataError {
    /// A field of the super block has a value that no version of DRBD writes.
    BadField {
        /// Name of the field as dump-md spells it.
        field: &'static str,
        /// Its value.
        got: i64,
        /// What would be right.
        expected: &'static str,
    },
    /// A field that follows from the size of the device does not fit this device.
    OtherSize {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        got: i64,
        /// Value for this device.
        expected: i64,
        /// Size of the largest device that the metadata could be of.
        made_for_bytes: u64,
        /// Size of this device.
        device_bytes: u64,
    },
    /// Older than v08.
    OldFormat {
        /// Its name.
        name: &'static str,
    },
    /// No magic of any version.
    NoMetadata,
    /// The device cannot hold the area.
    TooSmall {
        /// Size of the device.
        device_bytes: u64,
        /// Size needed.
        needed_bytes: u64,
    },
    /// The indexed area lies beyond the end of the device.
    IndexBeyondEnd {
        /// Where its super block would be.
        offset_bytes: u64,
        /// Size of the device.
        device_bytes: u64,
    },
    /// The device is larger than a bitmap of this kind can describe.
    TooLarge {
        /// Size of the device.
        device_bytes: u64,
    },
    /// Stripe settings of the log outside the limits.
    LogSize {
        /// Stripes.
        stripes: u32,
        /// 4 KiB blocks per stripe.
        stripe_size_4k: u32,
    },
    /// A word that is not an index.
    BadIndex {
        /// The word.
        word: String,
    },
    /// Fewer bytes of log or bitmap were handed in than the super block speaks of.
    Truncated {
        /// Which part.
        part: &'static str,
        /// Bytes given.
        got_bytes: u64,
        /// Bytes wanted.
        wanted_bytes: u64,
    },
    /// The log is needed and cannot be read back.
    LogUnreadable,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetadataError::BadField { field, got, expected } => {
                write!(f, "the super block is damaged: {field} is {got}, expected {expected}")
            }
            MetadataError::OtherSize { field, got, expected, made_for_bytes, device_bytes } => write!(
                f,
                "the metadata was made for a device of another size: of up to {made_for_bytes} bytes, \
                 this one has {device_bytes} ({field} is {got}, not {expected}); \
                 give the device its old size back, or make new metadata with create-md"
            ),
            MetadataError::OldFormat { name } => {
                write!(f, "this is {name} metadata, which udrbd does not convert")
            }
            MetadataError::NoMetadata => f.write_str("No valid meta data found"),
            MetadataError::TooSmall { device_bytes, needed_bytes } => {
                write!(f, "the device has only {device_bytes} bytes, the metadata needs {needed_bytes}")
            }
            MetadataError::IndexBeyondEnd { offset_bytes, device_bytes } => write!(
                f,
                "the meta data block would be at byte offset {offset_bytes}, \
                 but the device has only {device_bytes} bytes"
            ),
            MetadataError::TooLarge { device_bytes } => {
                write!(f, "the bitmap of a device of {device_bytes} bytes would be too large")
            }
            MetadataError::LogSize { stripes, stripe_size_4k } => write!(
                f,
                "an activity log of {stripes} stripes of {stripe_size_4k} blocks is outside the limits \
                 (32 KiB to 16 GiB)"
            ),
            MetadataError::BadIndex { word } => write!(f, "'{word}' is not a valid index number."),
            MetadataError::Truncated { part, got_bytes, wanted_bytes } => {
                write!(f, "the {part} should have {wanted_bytes} bytes, {got_bytes} were read")
            }
            MetadataError::LogUnreadable => f.write_str(
                "the activity log is damaged and it is not known what was being written; \
                 invalidate this disk and let a full resync repair it",
            ),
        }
    }
}

impl std::error::Error for MetadataError {}
