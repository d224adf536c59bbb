#!/usr/bin/env python3
"""Makes the golden set under tests/golden from the correctness oracle. Run by hand; the results are committed.

    python3 -m venv venv && venv/bin/pip install gguf numpy safetensors
    venv/bin/python make_golden.py ORACLE_FOLDER [LIBGGML]

ORACLE_FOLDER holds tiny random Hugging Face checkpoints with reference logits of an independent implementation
(transformers in float32; llama.cpp in float32 for quantised files), and a manifest.json with tolerances.
LIBGGML is a shared library of ggml (`gcc -O2 -ffp-contract=off -shared -fPIC ggml-quants.c ggml.c`): without it the quantised
rows are left as they are. Each checkpoint becomes a GGUF file exactly as llama.cpp's converter would write it. README.md describes the results.
"""

import ctypes
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
FLOAT_SETS = ["llama31", "llama32", "llama_variants", "mistral_v01", "mistral_v03", "mobilellama", "smollm2"]
# Only variants whose tensors all have supported types.
QUANT_SETS = {
    "gguf_llama31": ["Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"],
    "gguf_gemma2": ["Q4_K_M"],
    "gguf_gemma3": ["Q4_K_M"],
    "gguf_phi35mini": ["Q4_K_M"],
    "gguf_phi4mini": ["Q4_K_M"],
    "gguf_qwen25": ["Q4_K_M"],
    "gguf_qwen3": ["Q4_K_M"],
    "gguf_qwen3moe": ["Q4_K_M"],
    "gguf_smollm3": ["Q4_K_M"],
    "gguf_stablelm2_1b6": ["Q4_K_M"],
}
REAL = "real/smollm2-135m-instruct-q4_1.json"

GGUF_TYPE = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}
TOKEN = gguf.TokenType


def load_raw(path):
    """Tensors of a safetensors file as (dtype name, shape, bytes): numpy knows no bfloat16."""
    data = path.read_bytes()
    header_len = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_len])
    header.pop("__metadata__", None)
    base = 8 + header_len
    for name, info in header.items():
        begin, end = info["data_offsets"]
        yield name, info["dtype"], info["shape"], data[base + begin : base + end]


def to_f32(dtype, shape, raw):
    """Decodes floats of any width."""
    if dtype == "BF16":
        wide = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    return np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32).reshape(shape)


def permute(rows, n_heads):
    """Row order of q and k: from halves (i, i + n/2) to adjacent pairs, as llama.cpp's rope expects."""
    shape = rows.shape
    return rows.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tensor_name(name):
    """GGUF name of a Hugging Face tensor."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    layer, rest, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name).groups()
    roles = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    return f"blk.{layer}.{roles[rest]}.{kind}"


def add_tensors(writer, folder, config):
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for path in sorted(folder.glob("model*.safetensors")):
        for hf_name, dtype, shape, raw in load_raw(path):
            name = tensor_name(hf_name)
            role = name.split(".")[-2]
            if len(shape) == 1:
                # Vectors are float32 in every GGUF.
                values = to_f32(dtype, shape, raw)
                writer.add_tensor(name, permute(values, heads[role]) if role in heads else values)
                continue
            width = 4 if dtype == "F32" else 2
            rows = np.frombuffer(raw, np.uint8).reshape(shape[0], shape[1] * width)
            if role in heads:
                rows = permute(rows, heads[role])
            writer.add_tensor(name, np.ascontiguousarray(rows), raw_dtype=GGUF_TYPE[dtype])


def llama3_factors(config):
    """Divisors of the rope frequencies, as llama.cpp's converter computes them for rope type `llama3`."""
    scaling = config["rope_scaling"]
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    context = scaling["original_max_position_embeddings"]
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / dim)
        if wavelength < context / high:
            out.append(1.0)
        elif wavelength > context / low:
            out.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def add_parameters(writer, config):
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.get("sliding_window"):
        # llama.cpp does not know windows of this architecture; Lamplight does.
        writer.add_sliding_window(config["sliding_window"])
    if config["hidden_act"] != "silu":
        # No key of llama.cpp says this; Lamplight's own name for it.
        writer.add_string("llama.hidden_activation", config["hidden_act"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    elif scaling:
        raise ValueError(f"rope scaling {scaling}")


def spm_scores(model):
    """Scores that make merging by score equal merging by rank: the earlier the merge, the higher. Tokens that no
    merge makes (bytes, single characters) are never the result of one, so theirs do not matter."""
    scores = dict.fromkeys(model["vocab"], -1e6)
    for rank, pair in reversed(list(enumerate(model["merges"]))):
        scores["".join(pair)] = -float(rank)
    return scores


def add_vocabulary(writer, tokenizer, settings):
    model = tokenizer["model"]
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    ids = dict(model["vocab"])
    ids.update({content: token["id"] for content, token in added.items()})
    tokens = [content for content, _ in sorted(ids.items(), key=lambda item: item[1])]
    is_spm = model["byte_fallback"]
    types = []
    for token in tokens:
        if token == model["unk_token"]:
            types.append(TOKEN.UNKNOWN)
        elif token in added:
            types.append(TOKEN.CONTROL if added[token]["special"] else TOKEN.USER_DEFINED)
        elif is_spm and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            types.append(TOKEN.BYTE)
        else:
            types.append(TOKEN.NORMAL)
    if is_spm:
        scores = spm_scores(model)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores([scores.get(token, -1e6) for token in tokens])
        writer.add_token_types(types)
        writer.add_add_space_prefix(True)
    else:
        digits = any("Digits" in p["type"] for p in tokenizer["pre_tokenizer"]["pretokenizers"])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm" if digits else "llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    for name, add in [
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ]:
        if settings.get(name):
            add(ids[settings[name]])
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(False)
    writer.add_chat_template(settings["chat_template"])


def adds_bos(tokenizer):
    processor = tokenizer["post_processor"] or {}
    steps = processor.get("processors", [processor])
    return any(step.get("type") == "TemplateProcessing" for step in steps)


def spm_encode(model, text):
    """SentencePiece's merging as llama.cpp does it: of all neighbours whose union is a token, the best score first.
    Hugging Face merges only the listed pairs, so the two may part; such cases are left out."""
    vocab, scores = model["vocab"], spm_scores(model)
    pieces = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        best = None
        for i in range(len(pieces) - 1):
            union = pieces[i] + pieces[i + 1]
            if union in vocab and (best is None or scores[union] > best[0]):
                best = (scores[union], i)
        if best is None:
            break
        pieces[best[1] : best[1] + 2] = [pieces[best[1]] + pieces[best[1] + 1]]
    ids = []
    for piece in pieces:
        if piece in vocab:
            ids.append(vocab[piece])
        else:
            ids.extend(vocab[f"<0x{byte:02X}>"] for byte in piece.encode())
    return ids


def tokenizer_cases(folder, tokenizer):
    """The oracle's cases; without those of which GGUF's kind of vocabulary cannot tell what Hugging Face does."""
    cases = json.loads((folder / "tokenizer_cases.json").read_text())
    model = tokenizer["model"]
    if model["byte_fallback"]:
        special = [token["content"] for token in tokenizer["added_tokens"]]
        # "first" puts a space before the text only, GGUF before each run of text between special tokens.
        first_only = (tokenizer["pre_tokenizer"] or {}).get("prepend_scheme") == "first"
        kept = []
        for case in cases["encode"]:
            plain = not any(content in case["text"] for content in special)
            equal = spm_encode(model, case["text"]) == case["ids_no_special"] if plain else not first_only
            if equal:
                kept.append(case)
            else:
                print(f"  left out: {case['text']!r}")
        cases["encode"] = kept
        for case in cases["chat"]:
            if first_only:
                case.pop("ids", None)
    return cases


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_reference(path, tensors):
    save_file({name: np.ascontiguousarray(values) for name, values in sorted(tensors.items())}, path)
    # safetensors creates files readable by their owner only.
    path.chmod(0o644)


def make_float_set(oracle, name, entry):
    print(name)
    folder, out = oracle / name, HERE / name
    out.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    writer = gguf.GGUFWriter(out / "model.gguf", "llama")
    writer.add_type("model")
    writer.add_name(f"golden {name}")
    add_parameters(writer, config)
    add_vocabulary(writer, tokenizer, settings)
    add_tensors(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    reference = load_file(folder / "reference.safetensors")
    wanted = re.compile(r"prompt\d\.(input_ids|logits|greedy_ids)")
    write_reference(out / "reference.safetensors", {k: v for k, v in reference.items() if wanted.fullmatch(k)})
    write_json(out / "tokenizer_cases.json", tokenizer_cases(folder, tokenizer))
    prompts = [
        {
            "index": prompt["index"],
            "kind": prompt["kind"],
            "n_tokens": prompt["tokens"],
            "has_logits": f"prompt{prompt['index']}.logits" in reference,
            "greedy_min_margin": prompt["greedy_min_margin"],
        }
        for prompt in entry["prompts"]
    ]
    tolerance = entry["tolerance"]
    write_json(
        out / "golden.json",
        {
            "name": name,
            "file": "model.gguf",
            "reference": "reference.safetensors",
            "tokenizer_cases": "tokenizer_cases.json",
            "oracle": entry["oracle"],
            "peculiarities": entry["peculiarities"],
            "prompts": prompts,
            "tolerance_f32": tolerance["f32_compute_max_abs"],
            "tolerance_f16": tolerance["f16_compute_max_abs"],
            "top1_min_f16": tolerance["f16_compute_top1_min"],
            "logit_std": tolerance["logit_std"],
            "greedy": tolerance["greedy_f32"],
            "sensitivity_max_abs_if_ignored": entry["sensitivity_max_abs_if_ignored"],
        },
    )


def make_quant_set(oracle, folder_name, variant, entry):
    name = f"{folder_name.removeprefix('gguf_')}_{variant.lower()}"
    print(name)
    folder, out = oracle / folder_name, HERE / name
    out.mkdir(exist_ok=True)
    shutil.copyfile(folder / f"{folder_name.removeprefix('gguf_')}-{variant}.gguf", out / "model.gguf")
    reference = load_file(folder / "reference.safetensors")
    input_ids = reference["prompt.input_ids"]
    write_reference(
        out / "reference.safetensors",
        {
            "prompt0.input_ids": input_ids,
            "prompt0.logits": reference[f"{variant}.float.logits"],
            "prompt0.greedy_ids": reference[f"{variant}.float.greedy_ids"],
        },
    )
    checks, tolerance = entry["checks"][variant], entry["tolerance"]
    write_json(
        out / "golden.json",
        {
            "name": name,
            "file": "model.gguf",
            "reference": "reference.safetensors",
            "tokenizer_cases": None,
            "oracle": entry["oracle"],
            "peculiarities": entry["peculiarities"],
            "tensor_types": checks["tensor_types"],
            "prompts": [
                {
                    "index": 0,
                    "kind": "medium",
                    "n_tokens": len(input_ids),
                    "has_logits": True,
                    "greedy_min_margin": checks["greedy_min_margin"],
                }
            ],
            "tolerance_f32": tolerance["float32_max_abs"],
            "tolerance_f16": tolerance["f16_compute_max_abs"],
            "top1_min_f16": 0.97,
            "logit_std": tolerance["logit_std"],
            "greedy": "exact",
            "sensitivity_max_abs_if_ignored": {},
        },
    )


def make_blocks(oracle):
    """Blocks of every supported format beside the values they stand for: two rows of quantised weights and, as `.raw`,
    all rows of random blocks."""
    folder, out = oracle / "gguf_tensors", HERE / "quant"
    out.mkdir(exist_ok=True)
    values = load_file(folder / "reference.safetensors")
    tensors = {}
    for tensor in gguf.GGUFReader(folder / "tensors.gguf").tensors:
        rows = slice(None) if tensor.name.endswith(".raw") else slice(2)
        blocks = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(len(values[tensor.name]), -1)
        tensors[f"{tensor.name}.blocks"] = blocks[rows].reshape(-1)
        tensors[f"{tensor.name}.values"] = values[tensor.name][rows].reshape(-1)
    tensors |= further_blocks()
    write_reference(out / "blocks.safetensors", tensors)


def further_blocks():
    """Blocks of what the oracle lacks, decoded as ggml's C code and the formats' papers say."""
    rng = np.random.default_rng(7)
    tensors = {}

    def add(name, blocks, values):
        tensors[f"{name}.blocks"] = np.ascontiguousarray(blocks).view(np.uint8).reshape(-1)
        tensors[f"{name}.values"] = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)

    for name, n_bits in [("Q1_0", 1), ("Q2_0", 2)]:
        scales = rng.standard_normal((24, 1)).astype(np.float16)
        quants = rng.integers(0, 256, (24, 16), dtype=np.uint8)
        codes = (quants[..., None] >> np.arange(0, 8, n_bits, dtype=np.uint8)) & ((1 << n_bits) - 1)
        codes = codes.reshape(24, -1).astype(np.float32)
        codes = 2 * codes - 1 if n_bits == 1 else codes - 1
        add(f"{name}.raw", np.concatenate([scales.view(np.uint8), quants], axis=1), scales.astype(np.float32) * codes)
    tensors["Q2_0.blocks"], tensors["Q2_0.values"] = tensors["Q2_0.raw.blocks"], tensors["Q2_0.raw.values"]
    doubles = np.concatenate([rng.standard_normal(500), [0.0, -0.0, 1e-300, 1e-40, -1e-45, 1 + 2**-24, 1 + 3 * 2**-24]])
    add("F64", doubles, doubles.astype(np.float32))
    codes = np.arange(256, dtype=np.uint8)
    e5m2 = (codes.astype(np.uint16) << 8).view(np.float16)
    add("F8_E5M2", codes[np.isfinite(e5m2)], e5m2[np.isfinite(e5m2)])
    exponents, fractions = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float64)
    magnitudes = np.where(exponents == 0, fractions * 2.0**-9, (1 + fractions / 8) * 2.0 ** (exponents - 7))
    e4m3, finite = np.where(codes < 128, magnitudes, -magnitudes), codes & 127 != 127
    add("F8_E4M3", codes[finite], e4m3[finite])
    return tensors


QUANTISERS = {
    "Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1", "Q5_0": "q5_0", "Q5_1": "q5_1", "Q2_K": "q2_K", "Q3_K": "q3_K",
    "Q4_K": "q4_K", "Q5_K": "q5_K", "Q6_K": "q6_K", "IQ4_NL": "iq4_nl", "MXFP4": "mxfp4",
}


def make_quantised(library):
    """Rows that are quantised by ggml's C code, with and without importance; checked with PyPI `gguf` where it can."""
    rng = np.random.default_rng(11)
    source = rng.standard_normal((10, 512)).astype(np.float32)
    source[1] *= 0.02
    source[2] = np.abs(source[2])
    source[3, 256:] = 0
    source[4] = 0.5
    source[5, 77] = 1e3
    source[6] *= 1e-6
    source[7] = -np.abs(source[7]) - 1
    source[8] = np.round(source[8])
    source[9] *= np.linspace(0, 2, 512, dtype=np.float32)
    importance = (rng.standard_normal(512) ** 2).astype(np.float32)
    importance[100:140] = 0
    tensors = {"source": source, "importance": importance}
    pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    functions = ctypes.CDLL(library, mode=os.RTLD_LAZY)
    for name, function in QUANTISERS.items():
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        for suffix, weights in [("", None), (".importance", pointer(importance))]:
            out = np.zeros(source.size // block_len * block_bytes, dtype=np.uint8)
            quantize = functions[f"quantize_{function}"]
            for row in range(len(source)):
                at = row * len(out) // len(source)
                quantize(pointer(source[row]), pointer(out[at:]), ctypes.c_int64(1), ctypes.c_int64(512), weights)
            tensors[name + suffix] = out
        try:
            numpy_says = gguf.quants.quantize(source, gguf.GGMLQuantizationType[name])
            if (numpy_says.reshape(-1) != tensors[name]).any():
                print(f"{name}: PyPI gguf differs in {(numpy_says.reshape(-1) != tensors[name]).sum()} bytes")
        except NotImplementedError:
            pass
    for name in ["F16", "BF16"]:
        numpy_says = gguf.quants.quantize(source, gguf.GGMLQuantizationType[name])
        tensors[name] = np.ascontiguousarray(numpy_says).view(np.uint8).reshape(-1)
    write_reference(HERE / "quant" / "quantised.safetensors", tensors)


def main():
    oracle = Path(sys.argv[1])
    manifest = json.loads((oracle / "manifest.json").read_text())
    entries = {entry["family"]: entry for entry in manifest["families"]}
    for name in FLOAT_SETS:
        make_float_set(oracle, name, entries[name])
    for folder, variants in QUANT_SETS.items():
        for variant in variants:
            make_quant_set(oracle, folder, variant, entries[folder])
    make_blocks(oracle)
    if len(sys.argv) > 2:
        make_quantised(sys.argv[2])
    (HERE / "real").mkdir(exist_ok=True)
    shutil.copyfile(oracle / REAL, HERE / REAL)


if __name__ == "__main__":
    main()
