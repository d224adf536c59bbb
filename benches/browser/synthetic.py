#!/usr/bin/env python3
"""Writes a GGUF file of random Q4_0 weights in the shape of a larger llama, with the tokenizer of another file: to measure
speeds where no such model is at hand. What it writes is no text.
  python3 benches/browser/synthetic.py SOURCE.gguf OUT.gguf [LAYERS [WIDTH [FF [HEADS [KV_HEADS]]]]]"""
import random, struct, sys

SCALAR = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}

def main(source, out, layers=8, width=2048, ff=8192, heads=32, kv_heads=8):
    data = open(source, 'rb').read()
    at = 8
    def take(code):
        nonlocal at
        value, = struct.unpack_from('<' + code, data, at)
        at += struct.calcsize('<' + code)
        return value
    def string():
        nonlocal at
        n = take('Q')
        at += n
        return data[at - n:at]
    def skip(kind):
        if kind == 8:
            string()
        elif kind == 9:
            inner = take('I')
            for _ in range(take('Q')):
                skip(inner)
        else:
            take(SCALAR[kind])
    take('Q')
    n_keys = take('Q')
    shape = {b'llama.block_count': layers, b'llama.embedding_length': width, b'llama.feed_forward_length': ff,
             b'llama.attention.head_count': heads, b'llama.attention.head_count_kv': kv_heads, b'llama.rope.dimension_count': width // heads}
    keys, n_vocab = [], 0
    for _ in range(n_keys):
        start = at
        key = string()
        kind = take('I')
        value_at = at
        skip(kind)
        if key in shape:
            keys.append(data[start:value_at - 4] + struct.pack('<II', 4, shape[key]))
        elif key not in (b'llama.attention.key_length', b'llama.attention.value_length'):
            keys.append(data[start:at])
        if key == b'tokenizer.ggml.tokens':
            n_vocab, = struct.unpack_from('<Q', data, value_at + 4)
    head_dim, tensors = width // heads, [('token_embd.weight', width, n_vocab), ('output_norm.weight', width, 0)]
    for layer in range(layers):
        rows = {'attn_q': (width, width), 'attn_k': (width, kv_heads * head_dim), 'attn_v': (width, kv_heads * head_dim), 'attn_output': (width, width),
                'ffn_gate': (width, ff), 'ffn_up': (width, ff), 'ffn_down': (ff, width), 'attn_norm': (width, 0), 'ffn_norm': (width, 0)}
        tensors += [(f'blk.{layer}.{name}.weight', *dims) for name, dims in rows.items()]
    infos, offset = b'', 0
    for name, n_cols, n_rows in tensors:
        dims = [n_cols, n_rows] if n_rows else [n_cols]
        infos += struct.pack(f'<Q{len(name)}sI{len(dims)}QIQ', len(name), name.encode(), len(dims), *dims, 2 if n_rows else 0, offset)
        offset += -(-(n_cols * n_rows // 32 * 18 if n_rows else 4 * n_cols) // 32) * 32
    with open(out, 'wb') as file:
        file.write(b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(keys)) + b''.join(keys) + infos)
        file.write(bytes(-file.tell() % 32))
        random.seed(7)
        scale = struct.pack('<e', 0.02)
        for name, n_cols, n_rows in tensors:
            if n_rows:
                row = b''.join(scale + random.randbytes(16) for _ in range(1024))
                size = n_cols * n_rows // 32 * 18
                body = (row * (size // len(row) + 1))[:size]
                if name == 'token_embd.weight':
                    # The tokens that end a text are among the first: they never get the best logit.
                    n = 64 * n_cols // 32 * 18
                    body = bytes(n) + body[n:]
            else:
                body = struct.pack('<f', 1.0) * n_cols
            file.write(body + bytes(-len(body) % 32))

if __name__ == '__main__':
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
