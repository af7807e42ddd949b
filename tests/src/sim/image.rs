//! The metadata of a simulated volume, by the means of drbdmeta and the daemon: `create-md`, reading it for an attach,
//! `apply-al`, and where on it the engine's blocks go.

use super::disk::{Disk, BLOCK};
use super::setup::{NodeSetup, Setup};
use drbd_core::engine::DeviceBytes;
use drbd_core::ids::Sector;
use drbd_core::metadata::{apply_log, encode_initialised, load};
use drbd_core::metadata::{device_flag, peer_flag, Format, Loaded, MetadataError, SuperBlock};
use drbd_core::metadata::{BitmapArea, Geometry, Index, Layout, Place, Relayout};

/// Where the metadata of a volume is.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    index: Index,
    geometry: Geometry,
    /// Sizes the devices had, the present one last.
    sizes: Vec<DeviceBytes>,
    /// So much larger may they become.
    room_bytes: u64,
    /// First byte of the area on its device.
    base: u64,
    /// Bytes of the area.
    pub(crate) bytes: u64,
    /// Sectors for data at the beginning.
    pub(crate) capacity: Sector,
}

/// The generation both nodes begin with when they are born in sync.
const BORN: u64 = 0x1234_5678_9abc_def0;

impl Image {
    /// The place for a volume of at least that many sectors, whose device may grow by that much.
    pub(crate) fn plan(node: &NodeSetup, sectors: Sector, room_bytes: u64) -> Image {
        let max_peers = if node.format == Format::V08 { 1 } else { node.max_peers };
        let geometry = Geometry::usual(max_peers);
        let (index, meta_device_bytes, data_device_bytes) = if node.external {
            (Index::FlexExternal, 256 << 10, sectors.bytes())
        } else {
            let device = sectors.bytes() + geometry.bitmap_bytes(Sector(sectors.0 + 4096)) + 9 * 4096;
            (Index::Internal, device, device)
        };
        let layout = Layout::new(index, meta_device_bytes, &geometry).expect("a device large enough");
        let base = if node.external { 0 } else { layout.bitmap_offset_bytes() };
        let end = if node.external {
            meta_device_bytes
        } else {
            layout.super_block_offset_bytes + BLOCK as u64 + room_bytes
        };
        let capacity = layout.usable_sectors(index, &geometry).min(data_device_bytes / Sector::BYTES);
        let capacity = Sector(capacity);
        Image {
            index,
            geometry,
            sizes: vec![DeviceBytes { data: data_device_bytes, metadata: meta_device_bytes }],
            room_bytes,
            base,
            bytes: end - base,
            capacity,
        }
    }

    /// The bytes create-md leaves; with a size, those of a volume that is in sync.
    pub(crate) fn create(&self, setup: &Setup, node: usize, born: Option<Sector>) -> Vec<u8> {
        let mut area = vec![0; self.bytes as usize];
        let layout = self.layout();
        let mut super_block = SuperBlock::fresh(setup.nodes[node].format, &layout, &self.geometry);
        super_block.device_uuid = 0xdead_0000 + node as u64;
        if let Some(size) = born {
            super_block.current_uuid = BORN;
            super_block.effective_size = size.0;
            super_block.flags |= device_flag::CONSISTENT | device_flag::WAS_UP_TO_DATE;
            if setup.nodes[node].format == Format::V09 {
                super_block.node_id = node as i32;
                let peer = &mut super_block.peers[1 - node];
                peer.bitmap_index = 0;
                peer.flags |= peer_flag::NODE_EXISTS | peer_flag::DEVICE_SEEN;
            }
        }
        self.write_super_block(&mut area, layout.super_block_offset_bytes, &super_block);
        self.initialise_log(&mut area, layout.log_offset_bytes());
        area
    }

    /// The device becomes larger, if there is room for that: nobody is told.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let (first, last) = (self.sizes[0], self.device_bytes());
        if last.data + bytes > first.data + self.room_bytes {
            return false;
        }
        let metadata = if self.index.is_internal() { last.metadata + bytes } else { last.metadata };
        self.sizes.push(DeviceBytes { data: last.data + bytes, metadata });
        true
    }

    /// Sectors of the data device once it has grown as far as it may, metadata or not.
    pub(crate) fn sectors_at_most(&self) -> Sector {
        Sector(self.capacity.0 + self.room_bytes / Sector::BYTES)
    }

    /// Where create-md would put things now.
    fn layout(&self) -> Layout {
        Layout::new(self.index, self.device_bytes().metadata, &self.geometry).expect("a device large enough")
    }

    /// The super block, as whoever opens the device finds it: at its end, or where its end was before it grew, as
    /// `drbdmeta check-resize` does.
    fn found(&self, area: &[u8]) -> Result<(SuperBlock, DeviceBytes, u64), MetadataError> {
        for bytes in self.sizes.iter().rev() {
            let at = self.index.super_block_offset_bytes(bytes.metadata).expect("large enough");
            let block = &area[self.within(at)..][..BLOCK];
            if let Some(found) = SuperBlock::decode(block.first_chunk().expect("the area holds it"))? {
                return Ok((found, *bytes, at));
            }
        }
        unreachable!("a super block survives everything")
    }

    /// Reads the metadata as an attach does.
    pub(crate) fn load(&self, area: &[u8]) -> Result<Loaded, MetadataError> {
        let (super_block, bytes, _) = self.found(area)?;
        let place = Place::of(&super_block, self.index, bytes.metadata, bytes.data)?;
        let log = &area[(place.log_offset_bytes - self.base) as usize..][..place.log_bytes as usize];
        let bitmap = &area[(place.bitmap_offset_bytes - self.base) as usize..][..place.bitmap_bytes as usize];
        load(super_block, &place, log, bitmap)
    }

    /// `drbdmeta apply-al`: marks the hot extents out of sync, makes the log clean. Says how many extents there were.
    pub(crate) fn apply_log(&self, disk: &mut Disk) -> Result<usize, MetadataError> {
        let mut loaded = self.load(disk.meta())?;
        if !loaded.super_block.is_unclean() {
            return Ok(0);
        }
        let (_, _, at) = self.found(disk.meta())?;
        let place = self.place(disk.meta())?;
        let applied = apply_log(&mut loaded)?;
        let area = BitmapArea { slots: self.geometry.max_peers, bits: self.geometry.bits(loaded.capacity) };
        let bitmap_at = self.within(place.bitmap_offset_bytes);
        disk.rewrite_meta(|bytes| {
            for block in 0..area.blocks() {
                let mut out = [0; BLOCK];
                area.encode_block(&loaded.bitmaps, block, &mut out);
                bytes[bitmap_at + block as usize * BLOCK..][..BLOCK].copy_from_slice(&out);
            }
            self.initialise_log(bytes, place.log_offset_bytes);
            self.write_super_block(bytes, at, &loaded.super_block);
        });
        Ok(applied.extents.len())
    }

    /// `drbdmeta check-resize`: internal metadata is moved to the end of the device as it is now.
    pub(crate) fn check_resize(&self, disk: &mut Disk) -> Result<(), MetadataError> {
        let (super_block, _, at) = self.found(disk.meta())?;
        let old = self.place(disk.meta())?;
        let now = self.device_bytes();
        let new = Relayout::of(&super_block, self.index, now.metadata, now.data)?;
        if !new.moves_from(&old) {
            return Ok(());
        }
        let moved = SuperBlock { md_size_sect: new.md_size_sect, bm_offset: new.bm_offset, ..super_block };
        disk.rewrite_meta(|bytes| {
            let part = |at: u64, count: u64| self.within(at)..self.within(at + count);
            let log = bytes[part(old.log_offset_bytes, old.log_bytes)].to_vec();
            let mut bitmap = bytes[part(old.bitmap_offset_bytes, old.bitmap_bytes)].to_vec();
            bitmap.resize(new.place.bitmap_bytes as usize, 0);
            bytes[part(at, BLOCK as u64)].fill(0);
            bytes[part(new.place.bitmap_offset_bytes, new.place.bitmap_bytes)].copy_from_slice(&bitmap);
            bytes[part(new.place.log_offset_bytes, new.place.log_bytes)].copy_from_slice(&log);
            self.write_super_block(bytes, new.place.super_block_offset_bytes, &moved);
        });
        Ok(())
    }

    /// Where in the area that byte of the device is.
    pub(crate) fn within(&self, offset_bytes: u64) -> usize {
        (offset_bytes - self.base) as usize
    }

    /// Which of the three places it is in.
    pub(crate) fn index(&self) -> Index {
        self.index
    }

    /// Where the parts are.
    pub(crate) fn place(&self, area: &[u8]) -> Result<Place, MetadataError> {
        let (super_block, bytes, _) = self.found(area)?;
        Place::of(&super_block, self.index, bytes.metadata, bytes.data)
    }

    /// How large the devices are.
    pub(crate) fn device_bytes(&self) -> DeviceBytes {
        *self.sizes.last().expect("a size from the beginning on")
    }

    fn write_super_block(&self, area: &mut [u8], offset_bytes: u64, super_block: &SuperBlock) {
        let mut block = [0; BLOCK];
        super_block.encode(&mut block);
        area[self.within(offset_bytes)..][..BLOCK].copy_from_slice(&block);
    }

    fn initialise_log(&self, area: &mut [u8], offset_bytes: u64) {
        let mut block = [0; BLOCK];
        encode_initialised(&mut block);
        let log = self.within(offset_bytes);
        for n in 0..self.geometry.log_blocks() as usize {
            area[log + n * BLOCK..][..BLOCK].copy_from_slice(&block);
        }
    }
}
