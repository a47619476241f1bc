"""Tiny checkpoints, written on the fly for tests of loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = [
    "<s>",
    "</s>",
    "<unk>",
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    ".",
]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def make_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Return a Llama with random weights that is small enough to write in milliseconds."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer that splits at white space and knows `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_llama(folder: Path, *, tokenizer: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny Llama checkpoint and return its folder."""
    make_llama(seed, **changes).save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_pickle(folder: Path, **changes: Any) -> Path:
    """Write a tiny Llama checkpoint whose weights are a pickle."""
    model = make_llama(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def write_shards(folder: Path) -> Path:
    """Write a tiny Llama checkpoint in several safetensors files."""
    make_llama().save_pretrained(folder, max_shard_size="12KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config.json; None removes one."""
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a folder's model.safetensors; None removes one; '__' stands for a dot."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, metadata={"format": "pt"})


def write_gguf(path: Path, *, seed: int = 0, tokenizer: bool = True, **metadata: Any) -> Path:
    """Write a tiny Llama as GGUF in float32.

    Args:
        path: the file.
        seed: of the weights.
        tokenizer: whether it holds a vocabulary.
        metadata: `architecture`, `type`, `split_count`, or `tensors=False` for a vocabulary only.
    """
    import gguf

    writer = gguf.GGUFWriter(path, metadata.get("architecture", "llama"))
    writer.add_type(metadata.get("type", "model"))
    if "split_count" in metadata:
        writer.add_uint16("split.count", metadata["split_count"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(SIZES["vocab_size"])
    if tokenizer:
        letters = [*"abcdefghijk", "cd", "ab"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(["<s>", "</s>", "<unk>", *letters])
        writer.add_token_types([3, 3, 3, *[1] * len(letters)])
        # Two: transformers 4 reads a list of one as its only element.
        writer.add_token_merges(["a b", "c d"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(2)
    if metadata.get("tensors", True):
        for name, shape in _gguf_shapes().items():
            values = numpy.random.default_rng([seed, len(name)]).normal(size=shape) * 0.1
            writer.add_tensor(name, values.astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_shapes() -> dict[str, tuple[int, ...]]:
    width, inner, vocabulary = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    keys = width * SIZES["num_key_value_heads"] // SIZES["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, width),
        "output_norm.weight": (width,),
        "output.weight": (vocabulary, width),
    }
    for layer in range(SIZES["num_hidden_layers"]):
        for name, shape in {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (keys, width),
            "attn_v": (keys, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (inner, width),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes
