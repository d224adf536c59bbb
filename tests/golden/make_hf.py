#!/usr/bin/env python3
"""Copies Hugging Face folders of the correctness oracle to tests/golden/hf. Run by hand; the results are committed.

    python3 make_hf.py ORACLE_FOLDER SET...

Needs nothing beyond Python. A copy has the files that a published model has, the reference without hidden states, and
golden.json with what a test needs to know (README.md describes it). A set that is there already is made anew.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent / "hf"
SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "rwkv_vocab.txt",
    "model.safetensors.index.json",
]


def read_safetensors(path):
    """Tensors as {name: (dtype, shape, bytes)}."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    spans = {name: info["data_offsets"] for name, info in header.items()}
    return {name: (header[name]["dtype"], header[name]["shape"], data[8 + n + a : 8 + n + b]) for name, (a, b) in spans.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def wanted(name):
    return name.endswith((".input_ids", ".logits", ".greedy_ids")) or name.startswith("dequant.")


def prompts(info, reference):
    """What is known of each prompt, the chat prompt (greedy ids only) among them."""
    margins = {prompt["index"]: prompt.get("greedy_min_margin") for prompt in info["prompts"]}
    index = 0
    while f"prompt{index}.input_ids" in reference:
        yield {
            "index": index,
            "n_tokens": len(reference[f"prompt{index}.input_ids"][2]) // 4,
            "has_logits": f"prompt{index}.logits" in reference,
            "greedy_min_margin": margins.get(index),
        }
        index += 1


def copy(oracle, info):
    source, target = oracle / info["dir"], HERE / info["family"]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in [source / name for name in SMALL_FILES] + sorted(source.glob("model*.safetensors")):
        if path.exists():
            shutil.copyfile(path, target / path.name)
    reference = {name: tensor for name, tensor in read_safetensors(source / "reference.safetensors").items() if wanted(name)}
    assert all(dtype == "I32" for name, (dtype, _, _) in reference.items() if name.endswith("_ids"))
    write_safetensors(target / "reference.safetensors", reference)
    tolerance = info["tolerance"]
    golden = {
        "name": info["family"],
        "file": ".",
        "reference": "reference.safetensors",
        "oracle": info["oracle"],
        "peculiarities": info["peculiarities"],
        "prompts": list(prompts(info, reference)),
        "tolerance_f32": tolerance["f32_compute_max_abs"],
        "tolerance_f16": tolerance["f16_compute_max_abs"],
        "top1_min_f16": tolerance.get("f16_compute_top1_min", 0.97),
        "logit_std": tolerance.get("logit_std", info["prompts"][-1]["logit_std"]),
        "greedy": tolerance["greedy_f32"],
    }
    config = json.loads((target / "config.json").read_text())
    if config.get("num_experts") or config.get("num_local_experts"):
        # A rounded run may send a token to another expert, and then differs wholly at that position.
        golden |= {"share_min_f16": 0.7, "top1_min_f16": 0.9}
    (target / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{info['family']}: {sum(path.stat().st_size for path in target.iterdir()) >> 10} KiB")


def main():
    oracle = Path(sys.argv[1])
    families = {info["family"]: info for info in json.loads((oracle / "manifest.json").read_text())["families"]}
    for name in sys.argv[2:]:
        copy(oracle, families[name])


if __name__ == "__main__":
    main()
