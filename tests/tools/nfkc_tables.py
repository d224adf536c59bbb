"""Writes src/text/nfkc_tables.rs from the tables of the unicode-normalization-alignments crate, which the reference uses.

Usage: python3 tests/tools/nfkc_tables.py PATH_TO_THE_CRATES_tables.rs > src/text/nfkc_tables.rs
"""

import re
import sys
import unicodedata

source = open(sys.argv[1]).read()
table = re.search(r"COMPATIBILITY_DECOMPOSED_KV: .*?= &\[(.*?)\n\];", source, re.S).group(1)
entries = []
for code, chars in re.findall(r"\((0x[0-9a-fA-F]+), &\[(.*?)\]\)", table, re.S):
    text = "".join(chr(int(c, 16)) for c in re.findall(r"'\\u\{([0-9a-fA-F]+)\}'", chars))
    entries.append((int(code, 16), text))
entries.sort()


def shown(c):
    plain = unicodedata.category(c)[0] in "LNPS" and unicodedata.bidirectional(c) not in ("R", "AL", "AN")
    if c in "\"\\" or not plain:
        return f"\\u{{{ord(c):x}}}"
    return c


def lines(parts, width, start):
    line = start
    for part in parts:
        if len(line) + len(part) > width:
            yield line
            line = start
        line += part
    yield line


print("""//! Compatibility decompositions that are no canonical ones: what the forms KC and KD replace besides. Unicode 9, as the
//! reference has them. Must not know what they are for.
//!
//! Generated: `python3 tests/tools/nfkc_tables.py PATH > src/text/nfkc_tables.rs`.

use super::table::{Table, table};
""")
print("/// Character, shifted left by 6, plus the length of its decomposition in bytes; in the order of the characters.")
print("pub(super) static COMPATIBLE: Table<1> = table!(COMPATIBLE_ROWS.as_chunks::<1>().0);")
print("\n#[rustfmt::skip]")
print(f"const COMPATIBLE_ROWS: [u32; {len(entries)}] = [")
print("\n".join(lines((f" {code << 6 | len(text.encode()):#x}," for code, text in entries), 118, "   ")))
print("];\n\n/// The full decompositions, one after the other.")
print("#[rustfmt::skip]")
print("pub(super) static COMPATIBLE_TEXT: &str = \"\\")
print(" \\\n".replace(" ", "").join(lines((shown(c) for _, text in entries for c in text), 110, "")) + "\";")
