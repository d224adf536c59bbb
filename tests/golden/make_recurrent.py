#!/usr/bin/env python3
"""Makes the golden sets of recurrent models from the correctness oracle. Run by hand; the results are committed.

    venv/bin/pip install torch rwkv==0.8.32              (besides what make_golden.py needs)
    venv/bin/python make_recurrent.py ORACLE_FOLDER

The oracle holds tiny random RWKV checkpoints in the layout of the released ones. RWKV 6 and 7 become GGUF files exactly
as llama.cpp's converter would write them. The reference is the PyPI package `rwkv` in float32; of RWKV 6 it is
computed here, on weights widened to float32: from a bfloat16 checkpoint the package rounds the normalised embedding
table to bfloat16 (versions before 7), as the oracle's own references have it, and a GGUF file does not.
"""

import ast
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from make_golden import GGUF_TYPE, HERE, TOKEN, load_raw, to_f32, write_json, write_reference

# Tensors that the converter keeps in float32 whatever the file's type is.
FLOAT32 = ("time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2", "lerp_fused")
RENAMED = {
    "emb": "token_embd",
    "ln_out": "output_norm",
    "head": "output",
}
ROLES = {
    "ln1": "attn_norm",
    "ln2": "attn_norm_2",
    "att.ln_x": "time_mix_ln",
    "att.time_faaaa": "time_mix_first",
    "att.time_first": "time_mix_first",
}
# Order of the fused shift weights, and the rescaling that the file pretends the model was trained with.
SETS = {"rwkv6_native": ("rwkv6", "wkvrg", 1), "rwkv7_native": ("rwkv7", "rwkvag", 0)}
N_GREEDY = 16


def tensor_name(name):
    """GGUF name of a tensor of a native checkpoint."""
    stem, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "weight")
    if stem in RENAMED:
        return f"{RENAMED[stem]}.{kind}"
    layer, role = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem).groups()
    if role == "ln0":
        return f"token_embd_norm.{kind}"
    part, _, what = role.partition(".")
    part = {"att": "time_mix", "ffn": "channel_mix"}.get(part)
    what = re.sub(r"^(time_mix_|time_maa_|x_)(\w)$", r"lerp_\2", what)
    what = re.sub(r"^time_(maa_)?", "", what)
    return f"blk.{layer}.{ROLES.get(role) or f'{part}_{what}'}.{kind}"


def as_stored(values, dtype):
    """The bytes of float32 values in a 16-bit type that holds them exactly."""
    if dtype != "BF16":
        raise ValueError(dtype)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise ValueError("not exact")
    return (bits >> 16).astype(np.uint16).view(np.uint8).reshape(*values.shape[:-1], values.shape[-1] * 2)


def tensors(folder, version, order, rescale):
    """All tensors in GGUF form: name, float32 values, stored type."""
    fused = {}
    for native, dtype, shape, raw in load_raw(folder / "model.safetensors"):
        name, values = tensor_name(native), to_f32(dtype, shape, raw)
        layer = int(name.split(".")[1]) if name.startswith("blk.") else None
        role = name.split(".")[-2]
        if version == "rwkv7" and layer == 0 and re.fullmatch(r"time_mix_v\d", role):
            continue
        if re.fullmatch(r"time_mix_(w1|w2|decay_w1|decay_w2|a1|a2|v1|v2|g1|g2)", role):
            values = values.swapaxes(-1, -2)
        if "lerp" in role or re.fullmatch(r"time_mix_(decay|[wav]0|k_k|k_a|r_k|first)", role) and version != "rwkv6":
            values = values.reshape(-1)
        elif role == "time_mix_decay":
            values = values.reshape(-1)
        if rescale and role in ("time_mix_output", "channel_mix_value"):
            values = values / 2 ** (layer // rescale)
        if order and re.fullmatch(r"time_mix_lerp_[a-wyz]", role):
            group = fused.setdefault(layer, {})
            group[role[-1]] = values
            if len(group) < len(order):
                continue
            name = f"blk.{layer}.time_mix_lerp_fused.weight"
            values = np.stack([group[which] for which in order]).reshape(len(order), 1, 1, -1)
        yield name, values, dtype
        if version == "rwkv7" and layer == 0 and role.startswith("time_mix_a"):
            # The converter's dummies for the first layer, which has no values before it.
            yield name.replace("time_mix_a", "time_mix_v"), values, dtype


def add_parameters(writer, arch, config, shapes, rescale):
    writer.add_context_length(1048576)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(0)
    if config["head_size"]:
        writer.add_wkv_head_size(config["head_size"])
    if arch == "rwkv6":
        writer.add_rescale_every_n_layers(rescale)
        writer.add_time_mix_extra_dim(shapes["blk.0.time_mix_w1.weight"][0] // 5)
        writer.add_time_decay_extra_dim(shapes["blk.0.time_mix_decay_w1.weight"][0])
    if arch == "rwkv7":
        writer.add_decay_lora_rank(shapes["blk.0.time_mix_w1.weight"][0])
        writer.add_iclr_lora_rank(shapes["blk.0.time_mix_a1.weight"][0])
        writer.add_value_residual_mix_lora_rank(shapes["blk.1.time_mix_v1.weight"][0])
        writer.add_gate_lora_rank(shapes["blk.0.time_mix_g1.weight"][0])


def add_vocabulary(writer, folder, n_vocab):
    """As the converter's `_set_vocab_rwkv_world`: tokens are the insides of Python's literals of bytes."""
    tokens, types = ["<s>"], [TOKEN.CONTROL]
    for line in (folder / "rwkv_vocab.txt").read_text(encoding="utf-8").splitlines():
        literal = line.split(" ")[1:-1]
        token = ast.literal_eval(" ".join(literal))
        tokens.append(repr(token.encode() if isinstance(token, str) else token)[2:-1])
        types.append(TOKEN.NORMAL)
    for index in range(len(tokens), n_vocab):
        tokens.append(f"[PAD{index}]")
        types.append(TOKEN.UNUSED)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(tokens)
    writer.add_token_types(types)


def reference_of(folder, version):
    """Logits and greedy continuations of the oracle's prompts, by the PyPI package `rwkv`."""
    if version == "rwkv7":
        return load_file(folder / "reference.safetensors")
    os.environ.update(RWKV_V7_ON="0", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
    import torch
    from rwkv.model import RWKV

    found = load_raw(folder / "model.safetensors")
    weights = {name: torch.from_numpy(np.array(to_f32(dtype, shape, raw))) for name, dtype, shape, raw in found}
    out = {}
    with tempfile.TemporaryDirectory() as scratch:
        torch.save(weights, f"{scratch}/model.pth")
        model = RWKV(model=f"{scratch}/model", strategy="cpu fp32", verbose=False)
    for name, ids in load_file(folder / "reference.safetensors").items():
        if not name.endswith(".input_ids"):
            continue
        logits, state = model.forward(ids.tolist(), None, full_output=True)
        prompt, last, chosen = name.split(".")[0], logits[-1], []
        for _ in range(N_GREEDY):
            chosen.append(int(last.argmax()))
            last, state = model.forward(chosen[-1:], state)
        out[f"{prompt}.input_ids"] = ids
        out[f"{prompt}.logits"] = logits.numpy()
        out[f"{prompt}.greedy_ids"] = np.array(chosen, np.int32)
    return out


def make_set(oracle, source, entry, arch, order, rescale):
    name = f"{arch}_gguf"
    print(name)
    folder, out = oracle / source, HERE / name
    out.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    found = list(tensors(folder, arch, order, rescale))
    writer = gguf.GGUFWriter(out / "model.gguf", arch)
    writer.add_type("model")
    writer.add_name(f"golden {name}")
    add_parameters(writer, arch, config, {name: values.shape for name, values, _ in found}, rescale)
    add_vocabulary(writer, folder, config["vocab_size"])
    for tensor, values, dtype in found:
        role = tensor.split(".")[-2]
        if values.ndim == 1 or role.endswith(FLOAT32):
            writer.add_tensor(tensor, np.ascontiguousarray(values, np.float32))
        else:
            writer.add_tensor(tensor, as_stored(values, dtype), raw_dtype=GGUF_TYPE[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_set(out, name, entry, reference_of(folder, arch), "model.gguf")


def write_set(out, name, entry, reference, file):
    wanted = re.compile(r"prompt\d\.(input_ids|logits|greedy_ids)")
    reference = {key: values for key, values in reference.items() if wanted.fullmatch(key)}
    write_reference(out / "reference.safetensors", reference)
    prompts = [
        {
            "index": prompt["index"],
            "kind": prompt.get("kind", ["short", "medium", "long"][min(prompt["index"], 2)]),
            "n_tokens": prompt["tokens"],
            "has_logits": f"prompt{prompt['index']}.logits" in reference,
            "greedy_min_margin": prompt["greedy_min_margin"],
        }
        for prompt in entry["prompts"]
    ]
    write_json(
        out / "golden.json",
        {
            "name": name,
            "file": file,
            "reference": "reference.safetensors",
            "tokenizer_cases": None,
            "oracle": entry["oracle"],
            "peculiarities": entry["peculiarities"],
            "prompts": prompts,
            "tolerance_f32": entry["tolerance"]["f32_compute_max_abs"],
            "tolerance_f16": entry["tolerance"]["f16_compute_max_abs"],
            "top1_min_f16": entry["tolerance"].get("f16_compute_top1_min", 0.97),
            "logit_std": entry["prompts"][-1]["logit_std"],
            "greedy": entry["tolerance"]["greedy_f32"],
            "sensitivity_max_abs_if_ignored": entry.get("sensitivity_max_abs_if_ignored", {}),
        },
    )


def main():
    oracle = Path(sys.argv[1])
    manifest = json.loads((oracle / "manifest.json").read_text())
    entries = {entry["family"]: entry for entry in manifest["families"]}
    for source, (arch, order, rescale) in SETS.items():
        make_set(oracle, source, entries[source], arch, order, rescale)


if __name__ == "__main__":
    main()
