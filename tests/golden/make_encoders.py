#!/usr/bin/env python3
"""Makes the golden sets of embedding models. Run by hand; the results are committed.

    python3 -m venv venv && venv/bin/pip install torch==2.8.0 transformers==5.23.0 safetensors numpy gguf
    venv/bin/python make_encoders.py ORACLE_FOLDER

Tiny random checkpoints in the layouts that real ones use, with the vectors that transformers computes for a few texts
(float32, eager attention) and the final hidden states before pooling. The tokenizers are those of the correctness
oracle's folders; so is the whole of `bert_minilm`.
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    NomicBertConfig,
    NomicBertModel,
    Qwen3Config,
    Qwen3Model,
)

HERE = Path(__file__).resolve().parent
TEXTS = [
    "Hello world",
    "A somewhat longer sentence, with punctuation and numbers 12345.",
    "Привет, мир! " + "The quick brown fox jumps over the lazy dog. " * 2,
    "!",
]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
SMALL = dict(vocab_size=384, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def models(oracle):
    """Name, model, folder of the tokenizer, pooling, layers after the pooling, note."""
    yield "bert_minilm", BertModel.from_pretrained(oracle / "bert_minilm", attn_implementation="eager"), \
        "bert_minilm", "mean", [], "learned positions, post-norms, exact gelu, mean pooling"
    torch.manual_seed(11)
    nomic = NomicBertConfig(**SMALL, intermediate_size=96, max_position_embeddings=128)
    yield "nomic_bert", NomicBertModel(nomic), "bert_minilm", "mean", [], "fused Wqkv, rope base 1000, SwiGLU, post-norms"
    torch.manual_seed(12)
    qwen3 = Qwen3Config(
        **SMALL, intermediate_size=96, num_key_value_heads=2, head_dim=32, max_position_embeddings=256,
        rope_parameters=ROPE, tie_word_embeddings=True,
    )
    yield "qwen3_embedding", Qwen3Model(qwen3), "qwen3", "lasttoken", [], "causal, last token"
    torch.manual_seed(13)
    gemma = Gemma3TextConfig(
        **SMALL, intermediate_size=96, num_key_value_heads=1, head_dim=16, max_position_embeddings=256,
        query_pre_attn_scalar=16, sliding_window=15, layer_types=["sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
    )
    dense = [torch.nn.Linear(64, 128, bias=False), torch.nn.Linear(128, 64, bias=False)]
    yield "gemma_embedding", Gemma3TextModel(gemma), "gemma3", "mean", dense, \
        "bidirectional with a window on both sides, two dense layers after the pooling"


def randomise(model):
    """Norm weights and biases that tell when they are left out."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.1


def pooled(states, pooling, dense):
    vector = states.mean(0) if pooling == "mean" else states[-1]
    for layer in dense:
        vector = layer(vector)
    return torch.nn.functional.normalize(vector, dim=0)


def write_modules(folder, pooling, dense, width):
    """The sentence-transformers files that say what follows the transformer."""
    kinds = ["Transformer", "Pooling"] + ["Dense"] * len(dense) + ["Normalize"]
    modules = []
    for index, kind in enumerate(kinds):
        path = "" if index == 0 else f"{index}_{kind}"
        modules.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    modes = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}
    config = {"word_embedding_dimension": width, **{f"pooling_mode_{k}": v == pooling for k, v in modes.items()}}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(config, indent=1))
    for index, layer in enumerate(dense):
        path = folder / f"{index + 2}_Dense"
        path.mkdir(exist_ok=True)
        facts = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": False,
                 "activation_function": "torch.nn.modules.linear.Identity"}
        (path / "config.json").write_text(json.dumps(facts))
        save_file({"linear.weight": layer.weight.detach().contiguous()}, path / "model.safetensors")


@torch.no_grad()
def make(oracle, name, model, tokenizer_of, pooling, dense, note):
    folder = HERE / "hf" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = model.eval().float()
    if name == "bert_minilm":
        for file in ["config.json", "model.safetensors"]:
            shutil.copy(oracle / name / file, folder)
    else:
        randomise(model)
        model.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        if (oracle / tokenizer_of / file).exists():
            shutil.copy(oracle / tokenizer_of / file, folder)
    write_modules(folder, pooling, dense, model.config.hidden_size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tensors, gap, std = {}, 0.0, 0.0
    for index, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        states = model(input_ids=ids).last_hidden_state[0]
        double = model.double()(input_ids=ids).last_hidden_state[0].float()
        model.float()
        gap, std = max(gap, (states - double).abs().max().item()), max(std, states.std().item())
        tensors[f"prompt{index}.input_ids"] = ids[0].int()
        tensors[f"prompt{index}.embedding"] = pooled(states, pooling, dense)
        if not dense:
            tensors[f"prompt{index}.logits"] = states.contiguous()
    save_file(tensors, folder / "reference.safetensors")
    golden = {
        "name": name, "file": ".", "reference": "reference.safetensors",
        "oracle": f"transformers {__import__('transformers').__version__} / torch {torch.__version__}, float32, eager",
        "peculiarities": [note], "causal": pooling == "lasttoken", "texts": TEXTS,
        "prompts": [{"index": i, "has_logits": not dense} for i in range(len(TEXTS))],
        "tolerance_f32": max(50 * gap, 2e-4 * std), "tolerance_f16": 0.06 * std, "top1_min_f16": 0.9,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{name}: {size} bytes, gap {gap:.2e}, std {std:.2f}")


# Tensor names of llama.cpp's converter, by those of the published checkpoints.
GGUF_NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "emb_ln": "token_embd_norm", "attention.self.query": "attn_q", "attention.self.key": "attn_k",
    "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
    "norm1": "attn_output_norm", "norm2": "layer_output_norm", "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    for prefix in ("encoder.layers.", "encoder.layer."):
        if stem.startswith(prefix):
            layer, role = stem[len(prefix):].split(".", 1)
            return f"blk.{layer}.{GGUF_NAMES[role]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def write_gguf(name, arch):
    """The set `name` once more, as llama.cpp's converter writes it."""
    source, folder = HERE / "hf" / name, HERE / f"{name}_gguf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(folder / "model.gguf", arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    if arch == "nomic-bert":
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocab = (source / "vocab.txt").read_text().split("\n")[: config["vocab_size"]]
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    spell = lambda token: token if token in special else token[2:] if token.startswith("##") else "\u2581" + token
    tokens = [spell(token) for token in vocab] + [f"[PAD{i}]" for i in range(len(vocab), config["vocab_size"])]
    kind = lambda token: gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
    types = [kind(token) for token in vocab] + [gguf.TokenType.UNUSED] * (config["vocab_size"] - len(vocab))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(vocab.index("[CLS]"))
    writer.add_eos_token_id(vocab.index("[SEP]"))
    writer.add_sep_token_id(vocab.index("[SEP]"))
    writer.add_unk_token_id(vocab.index("[UNK]"))
    writer.add_pad_token_id(vocab.index("[PAD]"))
    for tensor, values in load_file(source / "model.safetensors").items():
        if not tensor.startswith("pooler."):
            writer.add_tensor(gguf_name(tensor), values.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.copy(source / "reference.safetensors", folder)
    golden = json.loads((source / "golden.json").read_text())
    golden.update(name=folder.name)
    golden["file"] = "model.gguf"
    (folder / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    for arguments in models(Path(sys.argv[1])):
        make(Path(sys.argv[1]), *arguments)
    write_gguf("bert_minilm", "bert")
    write_gguf("nomic_bert", "nomic-bert")
