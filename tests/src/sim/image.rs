//! The metadata of a simulated volume, by the means of drbdmeta and the daemon: `create-md`, reading it for an attach,
//! `apply-al`, and where on it the engine's blocks go.

use super::disk::{Disk, BLOCK};
use super::setup::{NodeSetup, Setup};
use drbd_core::engine::DeviceBytes;
use drbd_core::ids::Sector;
use drbd_core::metadata::{apply_log, encode_initialised, load};
use drbd_core::metadata::{device_flag, peer_flag, Format, Loaded, MetadataError, SuperBlock};
use drbd_core::metadata::{BitmapArea, Geometry, Index, Layout, Place};

/// Where the metadata of a volume is.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    index: Index,
    geometry: Geometry,
    layout: Layout,
    /// Bytes of the device the metadata is on, and of the data device.
    meta_device_bytes: u64,
    data_device_bytes: u64,
    /// First byte of the area on its device.
    base: u64,
    /// Bytes of the area.
    pub(crate) bytes: u64,
    /// Sectors for data.
    pub(crate) capacity: Sector,
}

/// The generation both nodes begin with when they are born in sync.
const BORN: u64 = 0x1234_5678_9abc_def0;

impl Image {
    /// The place for a volume of at least that many sectors.
    pub(crate) fn plan(node: &NodeSetup, sectors: Sector) -> Image {
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
        let end =
            if node.external { meta_device_bytes } else { layout.super_block_offset_bytes + BLOCK as u64 };
        let capacity = layout.usable_sectors(index, &geometry).min(data_device_bytes / Sector::BYTES);
        let capacity = Sector(capacity);
        Image {
            index,
            geometry,
            layout,
            meta_device_bytes,
            data_device_bytes,
            base,
            bytes: end - base,
            capacity,
        }
    }

    /// The bytes create-md leaves; with a size, those of a volume that is in sync.
    pub(crate) fn create(&self, setup: &Setup, node: usize, born: Option<Sector>) -> Vec<u8> {
        let mut area = vec![0; self.bytes as usize];
        let mut super_block = SuperBlock::fresh(setup.nodes[node].format, &self.layout, &self.geometry);
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
        self.write_super_block(&mut area, &super_block);
        self.initialise_log(&mut area);
        area
    }

    /// Reads the metadata as an attach does.
    pub(crate) fn load(&self, area: &[u8]) -> Result<Loaded, MetadataError> {
        let at = self.super_block_at();
        let block = area[at..at + BLOCK].first_chunk::<BLOCK>().expect("the area holds it");
        let super_block = SuperBlock::decode(block)?.expect("a super block survives everything");
        let place = Place::of(&super_block, self.index, self.meta_device_bytes, self.data_device_bytes)?;
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
        let applied = apply_log(&mut loaded)?;
        let area = BitmapArea { slots: self.geometry.max_peers, bits: self.geometry.bits(loaded.capacity) };
        let bitmap_at = (self.layout.bitmap_offset_bytes() - self.base) as usize;
        disk.rewrite_meta(|bytes| {
            for block in 0..area.blocks() {
                let mut out = [0; BLOCK];
                area.encode_block(&loaded.bitmaps, block, &mut out);
                bytes[bitmap_at + block as usize * BLOCK..][..BLOCK].copy_from_slice(&out);
            }
            self.initialise_log(bytes);
            self.write_super_block(bytes, &loaded.super_block);
        });
        Ok(applied.extents.len())
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
        let at = self.super_block_at();
        let block = area[at..at + BLOCK].first_chunk::<BLOCK>().expect("the area holds it");
        let super_block = SuperBlock::decode(block)?.expect("a super block survives everything");
        Place::of(&super_block, self.index, self.meta_device_bytes, self.data_device_bytes)
    }

    /// How large the devices are.
    pub(crate) fn device_bytes(&self) -> DeviceBytes {
        DeviceBytes { data: self.data_device_bytes, metadata: self.meta_device_bytes }
    }

    fn super_block_at(&self) -> usize {
        (self.layout.super_block_offset_bytes - self.base) as usize
    }

    fn write_super_block(&self, area: &mut [u8], super_block: &SuperBlock) {
        let mut block = [0; BLOCK];
        super_block.encode(&mut block);
        area[self.super_block_at()..][..BLOCK].copy_from_slice(&block);
    }

    fn initialise_log(&self, area: &mut [u8]) {
        let mut block = [0; BLOCK];
        encode_initialised(&mut block);
        let log = (self.layout.log_offset_bytes() - self.base) as usize;
        for n in 0..self.geometry.log_blocks() as usize {
            area[log + n * BLOCK..][..BLOCK].copy_from_slice(&block);
        }
    }
}
