"""Makes tests/tokenizers/world.txt and world.json: a part of RWKV's World vocabulary, and ids by its own tokenizer.

Usage: python3 tests/tools/make_world.py CHATRWKV   (a clone of github.com/BlinkDL/ChatRWKV)
The part has every byte and the tokens that occur in the texts, with their published ids, so that the file stays small;
for these texts the whole vocabulary gives the same ids.
"""

import importlib.util
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
SOURCE = pathlib.Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("world", SOURCE / "rwkv_pip_package/src/rwkv/rwkv_tokenizer.py")
world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(world)
VOCABULARY = SOURCE / "tokenizer/rwkv_vocab_v20230424.txt"

corpus = (ROOT / "tests/common/corpus.rs").read_text()
corpus += "敏捷的棕色狐狸跳过了懒狗。Небо голубое, Größe naïve café. 오늘 날씨 नमस्ते 👩‍👩‍👧 \r\n\t\0\u00a0\u3000" * 3
random.seed(1)
texts = []
for _ in range(300):
    starts = [random.randrange(len(corpus)) for _ in range(random.randint(1, 4))]
    texts.append("".join(corpus[start:start + random.randint(0, 50)] for start in starts))

tokenizer = world.TRIE_TOKENIZER(VOCABULARY)
joined = "\0\1\0".join([corpus, *texts]).encode()
lines = []
for line in VOCABULARY.read_text(encoding="utf-8").splitlines(keepends=True):
    token = tokenizer.idx2token[int(line.split(" ", 1)[0])]
    if len(token) == 1 or token in joined:
        lines.append(line)
out = ROOT / "tests/tokenizers"
(out / "world.txt").write_text("".join(lines), encoding="utf-8")
cases = [[text, tokenizer.encode(text)] for text in texts]
part = world.TRIE_TOKENIZER(out / "world.txt")
assert all(part.encode(text) == ids for text, ids in cases)
(out / "world.json").write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
print(len(lines), "tokens,", len(cases), "texts")
