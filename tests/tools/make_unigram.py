"""Makes tests/tokenizers/unigram_600.json: a small Unigram tokenizer.json with a precompiled table of replacements.

Usage: python3 tests/tools/make_unigram.py   (needs sentencepiece 0.2)
Trained on this project's own documents. The table has a few hundred of the replacements that SentencePiece's usual one
(NFKC, white space, controls) has, so that the file stays small.
"""

import base64
import io
import json
import pathlib
import tempfile
import unicodedata

import sentencepiece

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = "\n".join((ROOT / name).read_text() for name in ["README.md", "ARCHITECTURE.md", "shaders/README.md"])
TEXT += "\nНебо голубое. 敏捷的棕色狐狸跳过了懒狗。今天天气很好 こんにちは世界 한국어도 있습니다 naïve café Zürich\n" * 20

rules = {c: " " for c in "\t\n\r\u00a0\u2003\u3000\u200b"} | {c: "" for c in "\u0001\u007f\u00ad\ufeff"}
for first, last in [(0xC0, 0x17F), (0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x2160, 0x216F), (0x2460, 0x2473), (0xBC, 0xBE)]:
    for code in range(first, last + 1):
        folded = unicodedata.normalize("NFKC", chr(code))
        if folded != chr(code):
            rules[chr(code)] = folded
        spread = unicodedata.normalize("NFD", chr(code))
        if len(spread) > 1 and unicodedata.normalize("NFC", spread) == chr(code):
            rules[spread] = chr(code)

with tempfile.TemporaryDirectory() as folder:
    table = pathlib.Path(folder) / "rules.tsv"
    line = lambda text: " ".join(f"{ord(c):X}" for c in text)
    table.write_text("".join(f"{line(a)}\t{line(b)}\n" for a, b in sorted(rules.items())))
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")), model_writer=made, vocab_size=600, model_type="unigram",
        normalization_rule_tsv=str(table), pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.998,
    )
model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def field(data, wanted):
    """The last field of that number in a protobuf message, which must be bytes."""
    at, found = 0, None
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            _, at = varint(data, at)
            continue
        size, at = varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
        if tag >> 3 == wanted:
            found = data[at:at + size]
        at += size
    return found


charsmap = field(field(made.getvalue(), 3), 2)
added = [
    {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for i, text in enumerate(["<pad>", "</s>", "<unk>"])
]
space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
tokenizer = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]},
    "pre_tokenizer": space, "decoder": space,
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
    "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False, "vocab": [[model.id_to_piece(i), model.get_score(i)] for i in range(len(model))]},
}
(ROOT / "tests/tokenizers/unigram_600.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n")
print(len(model), "tokens,", len(charsmap), "bytes of replacements")
