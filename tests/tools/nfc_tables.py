"""Prints src/text/nfc_tables.rs: canonical decompositions and combining classes of Python's unicodedata.

Usage: python3 tests/tools/nfc_tables.py > src/text/nfc_tables.rs
Normalisation of assigned characters never changes between Unicode versions, so any recent Python will do.
"""

import unicodedata

decompositions = []
classes = []
for code in range(0x110000):
    char = chr(code)
    mapping = unicodedata.decomposition(char)
    if mapping and not mapping.startswith("<"):
        parts = [int(part, 16) for part in mapping.split()] + [0]
        composes = len(parts) == 3 and unicodedata.normalize("NFC", char) == char
        decompositions.append((code, parts[0], parts[1], composes))
    combining = unicodedata.combining(char)
    if combining:
        if classes and classes[-1][1] == code - 1 and classes[-1][2] == combining:
            classes[-1][1] = code
        else:
            classes.append([code, code, combining])

order = [i for i, entry in enumerate(decompositions) if entry[3]]
order.sort(key=lambda i: decompositions[i][1:3])


def table(items):
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 1 > 118:
            lines.append(line)
            line = "   "
        line += " " + item
    return "\n".join(lines + [line])


print(f"""//! Canonical decompositions and combining classes, Unicode {unicodedata.unidata_version}.
//!
//! Generated: `python3 tests/tools/nfc_tables.py > src/text/nfc_tables.rs`. Hangul syllables are computed, not listed.

use super::table::{{Table, table}};

/// Character, first part, second part (0: none), in the order of the characters.
pub(super) static DECOMPOSITIONS: Table<3> = table!(DECOMPOSITION_ROWS);

#[rustfmt::skip]
#[expect(clippy::large_const_arrays, reason = "only the compiler reads it")]
const DECOMPOSITION_ROWS: [[u32; 3]; {len(decompositions)}] = [
{table(f"[0x{c:x}, 0x{a:x}, 0x{b:x}]," for c, a, b, _ in decompositions)}
];

/// Indices of those decompositions that composition undoes, in the order of their parts.
pub(super) static COMPOSITIONS: Table<1> = table!(COMPOSITION_ROWS.as_chunks::<1>().0);

#[rustfmt::skip]
const COMPOSITION_ROWS: [u32; {len(order)}] = [
{table(f"{i}," for i in order)}
];

/// First and last character of a range, and its combining class; characters not listed have class 0.
pub(super) static COMBINING: Table<3> = table!(COMBINING_ROWS);

#[rustfmt::skip]
const COMBINING_ROWS: [[u32; 3]; {len(classes)}] = [
{table(f"[0x{a:x}, 0x{b:x}, {k}]," for a, b, k in classes)}
];""")
