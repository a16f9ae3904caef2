"""A random llama of 0.3 MB in Hugging Face's layout, and random LoRA adapters for it.

Written byte by byte, since neither torch nor a tokenizer library is at hand where tests run: a
safetensors file is a JSON header and the numbers after it.
"""

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

_HIDDEN = 64
_LAYERS = 2
_HEADS = 2
_INNER = 128
_SPECIAL = ("<s>", "</s>", "<unk>")

#: Shape and numbers, row by row.
_Tensor = tuple[tuple[int, ...], list[float]]


def write_base_model(folder: Path) -> Path:
    """Write a base model; always the same one."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*_SPECIAL, *_byte_characters()]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(vocabulary),
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    _write_json(folder / "config.json", config)
    _write_tokenizer(folder, vocabulary)
    _write_safetensors(folder / "model.safetensors", _base_tensors(len(vocabulary)))
    return folder


def write_lora(folder: Path, seed: int, *, rank: int = 8, broken: bool = False) -> Path:
    """Write an adapter whose words depend on the seed; `broken` cuts its weights off."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)  # noqa: S311 - weights, not secrets
    tensors: dict[str, _Tensor] = {}
    for layer in range(_LAYERS):
        for part in ("q_proj", "v_proj"):
            key = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            tensors[f"{key}.lora_A.weight"] = _random(chance, 1.0, rank, _HIDDEN)
            tensors[f"{key}.lora_B.weight"] = _random(chance, 1.0, _HIDDEN, rank)
    weights = folder / "adapter_model.safetensors"
    _write_safetensors(weights, tensors)
    if broken:
        weights.write_bytes(weights.read_bytes()[:100])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 20,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    _write_json(folder / "adapter_config.json", config)
    return folder


def _base_tensors(words: int) -> dict[str, _Tensor]:
    chance = random.Random(0)  # noqa: S311 - weights, not secrets
    ones: _Tensor = ((_HIDDEN,), [1.0] * _HIDDEN)
    tensors = {
        "model.embed_tokens.weight": _random(chance, 0.5, words, _HIDDEN),
        "model.norm.weight": ones,
        "lm_head.weight": _random(chance, 0.5, words, _HIDDEN),
    }
    for layer in range(_LAYERS):
        key = f"model.layers.{layer}"
        tensors[f"{key}.input_layernorm.weight"] = ones
        tensors[f"{key}.post_attention_layernorm.weight"] = ones
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{key}.self_attn.{part}.weight"] = _random(chance, 0.1, _HIDDEN, _HIDDEN)
        tensors[f"{key}.mlp.gate_proj.weight"] = _random(chance, 0.1, _INNER, _HIDDEN)
        tensors[f"{key}.mlp.up_proj.weight"] = _random(chance, 0.1, _INNER, _HIDDEN)
        tensors[f"{key}.mlp.down_proj.weight"] = _random(chance, 0.1, _HIDDEN, _INNER)
    return tensors


def _random(chance: random.Random, scale: float, rows: int, columns: int) -> _Tensor:
    return (rows, columns), [chance.gauss(0, scale) for _ in range(rows * columns)]


def _byte_characters() -> list[str]:
    """Return the character that byte-level tokenizers show each byte as."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return sorted([*map(chr, shown), *(chr(256 + index) for index in range(len(hidden)))])


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    special = [
        {
            "id": index,
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, word in enumerate(_SPECIAL)
    ]
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: index for index, word in enumerate(vocabulary)},
            "merges": [],
        },
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    names = dict(zip(("bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    )


def _write_safetensors(path: Path, tensors: Mapping[str, _Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    numbers = bytearray()
    for name, (shape, values) in tensors.items():
        start = len(numbers)
        numbers += struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(numbers)]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + numbers)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
