"""Writes a llama of 28,640 random weights: `write_gguf.py FILE SEED`.

Equal seeds give equal weights, and so equal words; run with the environment of llama-server.
"""

import sys

import gguf
import numpy as np

WIDTH, HEADS, INNER = 32, 4, 64
FIRST_LETTER = 3 + 256
WORDS = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
LETTERS = [letter.encode() for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]


def write(path, seed):
    chance = np.random.default_rng(seed)

    def weights(*shape):
        return chance.normal(0, 0.1, shape).astype(np.float32)

    model = gguf.GGUFWriter(path, "llama")
    describe(model)
    vocabulary = len(WORDS) + len(LETTERS)
    output = weights(vocabulary, WIDTH)
    # only letters are ever the likeliest: some releases fail on bytes that are no UTF-8
    output[:FIRST_LETTER] = 0
    model.add_tensor("token_embd.weight", weights(vocabulary, WIDTH))
    model.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    model.add_tensor("output.weight", output)
    for name in ("attn_norm", "ffn_norm"):
        model.add_tensor(f"blk.0.{name}.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        model.add_tensor(f"blk.0.{name}.weight", weights(WIDTH, WIDTH))
    model.add_tensor("blk.0.ffn_gate.weight", weights(INNER, WIDTH))
    model.add_tensor("blk.0.ffn_up.weight", weights(INNER, WIDTH))
    model.add_tensor("blk.0.ffn_down.weight", weights(WIDTH, INNER))
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def describe(model):
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256]
    model.add_name("tiny")
    model.add_context_length(256)
    model.add_embedding_length(WIDTH)
    model.add_block_count(1)
    model.add_feed_forward_length(INNER)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_vocab_size(len(WORDS) + len(LETTERS))
    model.add_file_type(0)
    model.add_tokenizer_model("llama")
    model.add_token_list([*WORDS, *LETTERS])
    model.add_token_scores([0.0] * (len(WORDS) + len(LETTERS)))
    model.add_token_types([*kinds, *[kind.NORMAL] * len(LETTERS)])
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_unk_token_id(0)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
