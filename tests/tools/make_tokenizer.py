"""Cuts the first merges of a byte-level GGUF vocabulary into a small tokenizer.json for the tests.

Usage: python3 tests/tools/make_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf 6000 > tests/tokenizers/smollm2_6000.json
The vocabulary is SmolLM2's (Hugging Face, Apache-2.0).
"""

import json
import struct
import sys

data = open(sys.argv[1], "rb").read(16 << 20)
n_merges = int(sys.argv[2])


def strings(key):
    at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    kind, element, count = struct.unpack("<IIQ", data[at:at + 16])
    assert (kind, element) == (9, 8), "an array of strings"
    at += 16
    found = []
    for _ in range(count):
        (size,) = struct.unpack("<Q", data[at:at + 8])
        found.append(data[at + 8:at + 8 + size].decode())
        at += 8 + size
    return found


tokens = strings("tokenizer.ggml.tokens")
merges = strings("tokenizer.ggml.merges")[:n_merges]
kept = {merge.replace(" ", "") for merge in merges}
alphabet = {token for token in tokens if len(token) == 1}
vocab = [token for token in tokens[:17] if len(token) > 1]
vocab += [token for token in tokens if token in alphabet or token in kept]
added = [
    {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for i, token in enumerate(vocab) if token.startswith("<") and len(token) > 5
]
json.dump({
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": {token: i for i, token in enumerate(vocab)}, "merges": merges},
}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
