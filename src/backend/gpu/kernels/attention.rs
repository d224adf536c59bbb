//! How the work of attention is spread over a workgroup.
//!
//! Principal type: [`AttentionTile`]. Must not know which kernels use it.

use super::{MOST_KEYS, SUBGROUP_LANES};

/// How the lanes of an attention workgroup are spread; see shaders/attention/attention.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionTile {
    /// Width of a head, even.
    pub head_dim: u32,
    /// Query rows of a workgroup.
    pub q_rows: u32,
    /// Keys of a step of the online softmax.
    pub keys: u32,
    /// Keys that a lane scores …
    pub lane_keys: u32,
    /// … and the groups of rows that lanes score.
    pub row_groups: u32,
    /// Lanes' groups by output row …
    pub row_slots: u32,
    /// … and by key.
    pub key_slots: u32,
}

/// Every WebGPU device has this much workgroup memory.
const WORKGROUP_BYTES: u32 = 16384;

impl AttentionTile {
    /// The tile for `group` query heads to a key head; `few` for decode, where one token has only `group` rows.
    /// `None` when heads are too wide for the workgroup memory every device has, or not even.
    pub fn new(head_dim: u32, group: u32, few: bool) -> Option<AttentionTile> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return None;
        }
        let n_fours = head_dim.div_ceil(4);
        let mut q_rows = if few { group.clamp(1, 8).next_power_of_two() } else { 32 };
        loop {
            // One token is short of keys for all lanes; in a prompt a lane has a block of four rows and four keys.
            let row_groups = if few { q_rows.min(2) } else { q_rows.div_ceil(4) };
            let fewest = if few { 64 } else { 64 / row_groups };
            // Every four elements of a head need a lane.
            let key_lanes = fewest.max(n_fours.div_ceil(row_groups).next_power_of_two());
            if key_lanes > MOST_KEYS {
                return None;
            }
            let lane_keys = if few { 1 } else { (MOST_KEYS / key_lanes).min(4) };
            let keys = key_lanes * lane_keys;
            let mut tile =
                AttentionTile { head_dim, q_rows, keys, lane_keys, row_groups, row_slots: 1, key_slots: 1 };
            if tile.workgroup_bytes() <= WORKGROUP_BYTES {
                let slots = tile.lanes() / n_fours;
                // The largest power of two that leaves no slot empty.
                tile.row_slots = 1 << slots.min(q_rows).ilog2();
                tile.key_slots = (slots / tile.row_slots).min(keys);
                return Some(tile);
            }
            if q_rows == 1 {
                return None;
            }
            q_rows /= 2;
        }
    }

    /// The tile of shaders/attention/attention_rows.wgsl: a lane has a row and loads two keys.
    pub const fn rows(head_dim: u32) -> AttentionTile {
        let (q_rows, lane_keys) = (SUBGROUP_LANES, 2);
        let keys = q_rows * lane_keys;
        AttentionTile { head_dim, q_rows, keys, lane_keys, row_groups: 1, row_slots: 1, key_slots: 1 }
    }

    /// Lanes of a workgroup.
    pub fn lanes(self) -> u32 {
        self.key_lanes() * self.row_groups
    }

    /// Lanes that have other keys.
    fn key_lanes(self) -> u32 {
        self.keys / self.lane_keys
    }

    /// Workgroup memory: queries, weights of keys, maxima, and the sums where keys are split.
    pub fn workgroup_bytes(self) -> u32 {
        let head_dim = self.head_dim.next_multiple_of(4);
        // Maxima by lanes, by up to four parts and of the row.
        let floats = self.q_rows * (head_dim + self.keys + self.key_lanes() + 5) + 5 * self.lanes();
        // Each array starts at a multiple of 16.
        floats * 4 + 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_tiles_fit_every_device_and_cover_their_rows() {
        for head_dim in (2..=256).step_by(2).chain([512]) {
            for group in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16] {
                for few in [true, false] {
                    let tile = AttentionTile::new(head_dim, group, few).unwrap();
                    assert!(tile.workgroup_bytes() <= WORKGROUP_BYTES && tile.lanes() <= 256, "{tile:?}");
                    for (whole, part) in [
                        (tile.q_rows, tile.row_groups),
                        (tile.q_rows, tile.row_slots),
                        (tile.lanes(), tile.q_rows),
                    ] {
                        assert!(part > 0 && whole % part == 0, "{tile:?}");
                    }
                    let lanes = head_dim.div_ceil(4) * tile.row_slots * tile.key_slots;
                    assert!(tile.key_slots > 0 && lanes <= tile.lanes(), "{tile:?}");
                }
            }
        }
    }

    #[test]
    fn heads_beyond_the_workgroup_memory_are_refused() {
        assert_eq!(AttentionTile::new(67, 1, true), None);
        assert_eq!(AttentionTile::new(8192, 1, false), None);
    }
}
