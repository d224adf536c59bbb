"""make_onnx.py MODEL.gguf OUT_DIR: a llama-family GGUF file as the ONNX folder that Transformers.js reads.

Writes the graph that onnxruntime's own model builder would (its fused attention and norm operators), with the GGUF file's weights
dequantised to float32, then quantises the products: onnx/model_quantized.onnx (int8, `dtype: 'q8'`) and
onnx/model_q4.onnx (4 bits, blocks of 32 as in the file, `dtype: 'q4'`). The embedding stays float32. For the benchmark only: no tokenizer is written.
"""

import json
import os
import sys

import numpy as np
import onnx
from gguf import GGUFReader, dequantize
from onnx import TensorProto, helper, numpy_helper

MS = "com.microsoft"


class Graph:
    """Nodes and weights as they are added; `op` returns the name of its first output."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, name, array):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind, inputs, outputs, domain="", **attributes):
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0] + "/node", domain=domain, **attributes))
        return outputs[0]


def read(path):
    reader = GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.ggml.")}
    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    assert fields["general.architecture"] == "llama", fields["general.architecture"]
    return fields, tensors


def settings(fields, tensors):
    get = lambda key, default=None: fields.get("llama." + key, default)
    n_heads, n_embd = get("attention.head_count"), get("embedding_length")
    return {
        "n_layers": get("block_count"), "n_embd": n_embd, "n_heads": n_heads,
        "n_kv_heads": get("attention.head_count_kv", n_heads), "head_dim": get("attention.key_length", n_embd // n_heads),
        "n_ff": get("feed_forward_length"), "eps": get("attention.layer_norm_rms_epsilon"),
        "theta": get("rope.freq_base", 10000.0), "n_ctx": get("context_length"), "n_vocab": tensors["token_embd.weight"].shape[0],
    }


def rope_caches(g, s, length):
    inverse = 1.0 / s["theta"] ** (np.arange(0, s["head_dim"], 2, dtype=np.float64) / s["head_dim"])
    angles = np.outer(np.arange(length), inverse)
    return g.weight("cos_cache", np.cos(angles).astype(np.float32)), g.weight("sin_cache", np.sin(angles).astype(np.float32))


def lengths(g):
    """What the attention operator wants to know of the mask: per row the number of keys less one, and the longest row."""
    g.weight("one", np.array([1], np.int64))
    g.op("ReduceSum", ["attention_mask", "one"], "n_keys", keepdims=0)
    g.op("Sub", ["n_keys", "one"], "n_keys_less_one")
    g.op("Cast", ["n_keys_less_one"], "seqlens_k", to=TensorProto.INT32)
    g.op("Shape", ["attention_mask"], "mask_shape")
    g.weight("axis_one", np.array(1, np.int64))
    g.op("Gather", ["mask_shape", "axis_one"], "total_long", axis=0)
    g.op("Cast", ["total_long"], "total_length", to=TensorProto.INT32)


def layer(g, s, tensors, i, x, caches):
    name = f"layer{i}"
    get = lambda part: tensors[f"blk.{i}.{part}.weight"]
    # Linear layers are stored [out, in]; MatMul wants [in, out].
    linear = lambda part, value: g.op("MatMul", [value, g.weight(f"{name}.{part}", get(part).T)], f"{name}.{part}.out")
    norm = lambda part, value: g.op(
        "SimplifiedLayerNormalization", [value, g.weight(f"{name}.{part}", get(part))], f"{name}.{part}.out", axis=-1, epsilon=s["eps"], stash_type=1)

    h = norm("attn_norm", x)
    attention = g.op(
        "GroupQueryAttention",
        [linear("attn_q", h), linear("attn_k", h), linear("attn_v", h), f"past_key_values.{i}.key", f"past_key_values.{i}.value",
         "seqlens_k", "total_length", *caches],
        [f"{name}.attention", f"present.{i}.key", f"present.{i}.value"], domain=MS, num_heads=s["n_heads"], kv_num_heads=s["n_kv_heads"],
        # GGUF's llama keeps the two halves of a rotated pair side by side.
        do_rotary=1, rotary_interleaved=1, scale=float(s["head_dim"]) ** -0.5)
    x = g.op("Add", [x, linear("attn_output", attention)], f"{name}.residual1")
    h = norm("ffn_norm", x)
    gate = linear("ffn_gate", h)
    silu = g.op("Mul", [gate, g.op("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
    product = g.op("Mul", [silu, linear("ffn_up", h)], f"{name}.product")
    return g.op("Add", [x, linear("ffn_down", product)], f"{name}.residual2")


def build(s, tensors):
    g = Graph()
    lengths(g)
    caches = rope_caches(g, s, min(s["n_ctx"], 8192))
    x = g.op("Gather", [g.weight("token_embd", tensors["token_embd.weight"]), "input_ids"], "embedded", axis=0)
    for i in range(s["n_layers"]):
        x = layer(g, s, tensors, i, x, caches)
    x = g.op("SimplifiedLayerNormalization", [x, g.weight("output_norm", tensors["output_norm.weight"])], "normed", axis=-1, epsilon=s["eps"], stash_type=1)
    # A second copy of a tied embedding, so that the head is quantised and the look-up is not.
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    g.op("MatMul", [x, g.weight("lm_head", head.T)], "logits")

    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    cache = lambda kind, i, part, length: helper.make_tensor_value_info(f"{kind}.{i}.{part}", f32, ["batch_size", s["n_kv_heads"], length, s["head_dim"]])
    caches_of = lambda kind, length: [cache(kind, i, part, length) for i in range(s["n_layers"]) for part in ("key", "value")]
    inputs = [helper.make_tensor_value_info("input_ids", i64, ["batch_size", "sequence_length"]), helper.make_tensor_value_info("attention_mask", i64, ["batch_size", "total_sequence_length"])]
    outputs = [helper.make_tensor_value_info("logits", f32, ["batch_size", "sequence_length", s["n_vocab"]])]
    graph = helper.make_graph(g.nodes, "llama", inputs + caches_of("past_key_values", "past_sequence_length"), outputs + caches_of("present", "total_sequence_length"), g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8)


def config(s):
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": s["n_embd"], "num_hidden_layers": s["n_layers"],
        "num_attention_heads": s["n_heads"], "num_key_value_heads": s["n_kv_heads"], "head_dim": s["head_dim"], "intermediate_size": s["n_ff"],
        "vocab_size": s["n_vocab"], "max_position_embeddings": s["n_ctx"], "rms_norm_eps": s["eps"], "rope_theta": s["theta"],
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }


def main():
    source, out = sys.argv[1:3]
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    fields, tensors = read(source)
    s = settings(fields, tensors)
    os.makedirs(out + "/onnx", exist_ok=True)
    full = out + "/onnx/float32.onnx"
    model = build(s, tensors)
    onnx.save(model, full)
    quantize_dynamic(full, out + "/onnx/model_quantized.onnx", weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"],
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})
    four = MatMulNBitsQuantizer(model, algo_config=DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False, accuracy_level=4))
    four.process()
    onnx.save(four.model.model, out + "/onnx/model_q4.onnx")
    os.remove(full)
    for name, value in (("config.json", config(s)), ("generation_config.json", {"eos_token_id": 2, "pad_token_id": 2})):
        with open(f"{out}/{name}", "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)


main()
