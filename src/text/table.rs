//! Unicode's tables as they are downloaded: columns of numbers, each as its difference from the one before, in bytes of seven
//! bits. That compresses to a third of what the numbers themselves do.
//!
//! Principal type: [`Table`], made by `table!` from rows that only the compiler sees. Must not know what a table is for.

use std::ops::Deref;
use std::sync::OnceLock;

/// Rows of `W` numbers, unpacked when they are first looked at.
pub(super) struct Table<const W: usize> {
    packed: &'static [u8],
    rows: OnceLock<Vec<[u32; W]>>,
}

impl<const W: usize> Table<W> {
    /// Of what [`pack`] gave.
    pub(super) const fn new(packed: &'static [u8]) -> Self {
        Table { packed, rows: OnceLock::new() }
    }
}

impl<const W: usize> Deref for Table<W> {
    type Target = [[u32; W]];

    fn deref(&self) -> &[[u32; W]] {
        self.rows.get_or_init(|| unpack(self.packed))
    }
}

/// A [`Table`] of the rows of a constant.
macro_rules! table {
    ($rows:expr) => {
        $crate::text::table::Table::new(
            const { &$crate::text::table::pack::<_, { $crate::text::table::packed_len(&$rows) }>(&$rows) },
        )
    };
}
pub(super) use table;

/// How many bytes [`pack`] makes of `rows`.
pub(super) const fn packed_len<const W: usize>(rows: &[[u32; W]]) -> usize {
    let (mut len, mut column) = (0, 0);
    while column < W {
        let (mut row, mut before) = (0, 0);
        while row < rows.len() {
            let mut rest = zigzag(before, rows[row][column]);
            before = rows[row][column];
            len += 1;
            while rest > 127 {
                rest >>= 7;
                len += 1;
            }
            row += 1;
        }
        column += 1;
    }
    len
}

/// `rows` column by column; of a number's bytes, the lowest comes first, and all but the last have the highest bit set.
pub(super) const fn pack<const W: usize, const N: usize>(rows: &[[u32; W]]) -> [u8; N] {
    let (mut packed, mut at, mut column) = ([0; N], 0, 0);
    while column < W {
        let (mut row, mut before) = (0, 0);
        while row < rows.len() {
            let mut rest = zigzag(before, rows[row][column]);
            before = rows[row][column];
            while rest > 127 {
                packed[at] = rest as u8 | 128;
                at += 1;
                rest >>= 7;
            }
            packed[at] = rest as u8;
            at += 1;
            row += 1;
        }
        column += 1;
    }
    packed
}

/// The difference from `before` to `now`, its sign as the lowest bit.
const fn zigzag(before: u32, now: u32) -> u32 {
    let difference = now.wrapping_sub(before) as i32;
    (difference << 1 ^ difference >> 31) as u32
}

fn unpack<const W: usize>(packed: &[u8]) -> Vec<[u32; W]> {
    let n_rows = packed.iter().filter(|byte| **byte < 128).count() / W;
    let mut rows = vec![[0; W]; n_rows];
    let mut bytes = packed.iter();
    for column in 0..W {
        let mut before = 0u32;
        for row in &mut rows {
            let (mut value, mut shift) = (0, 0);
            for byte in bytes.by_ref() {
                value |= u32::from(byte & 127) << shift;
                shift += 7;
                if *byte < 128 {
                    break;
                }
            }
            before = before.wrapping_add(value >> 1 ^ (value & 1).wrapping_neg());
            row[column] = before;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[u32; 3]; 5] =
        [[0, 5, u32::MAX], [7, 4, 0], [0x10_ffff, 0, 1 << 31], [3, 127, 128], [63, 64, 65]];
    static PACKED: Table<3> = table!(ROWS);

    #[test]
    fn rows_come_back_as_they_were() {
        assert_eq!(*PACKED, ROWS);
    }

    #[test]
    fn small_differences_take_a_byte() {
        assert_eq!(packed_len(&[[63], [126], [62]]), 3);
        assert_eq!(packed_len(&[[64], [0], [8192]]), 2 + 1 + 3);
    }
}
