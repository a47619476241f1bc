"""Mutated model files: refused by one message, or left to loading."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from mutations import Hang, Outcome, dump, mutate, patience

from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


def mutate_models(count: int, folder: Path, seed: int = 0, longest: int = 0) -> Outcome:
    """Mutate config, index and headers of model files, and check each as a run would.

    Args:
        count: how many.
        folder: an empty one.
        seed: of the mutations.
        longest: seconds that one may take; 0 for no limit.
    """
    draw, outcome = random.Random(seed), Outcome()
    sound = dict(_model_files())
    for number in range(count):
        file = draw.choice(list(sound))
        target = folder / "model"
        target.mkdir(exist_ok=True)
        for name, content in sound.items():
            (target / name).write_bytes(content)
        (target / file).write_bytes(_mutate_file(sound[file], file, draw))
        spec = target / file if file.endswith(".gguf") else target
        outcome.tried += 1
        try:
            with patience(longest):
                check_spec(parse_spec(str(spec)))
        except SpecError as error:
            outcome.refused(number, error)
        except (Exception, Hang) as error:
            outcome.fault(number, file, error)
        else:
            outcome.accepted += 1
    return outcome


def _model_files() -> Iterator[tuple[str, bytes]]:
    """A checkpoint of two shards and a GGUF file, as small as they can be."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 8),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 2),
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "auto_map": {"AutoModel": "code.Model"},
        "text_config": {"hidden_size": 8, "model_type": "llama"},
    }
    yield "config.json", json.dumps(config).encode()
    names = ("a.safetensors", "b.safetensors")
    index = {"metadata": {"total_size": 16}, "weight_map": dict(zip("ab", names))}
    yield "model.safetensors.index.json", json.dumps(index).encode()
    for name in names:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        header = json.dumps({name[0]: entry, "__metadata__": {"format": "pt"}}).encode()
        yield name, struct.pack("<Q", len(header)) + header + bytes(8)
    yield "model.gguf", _gguf()


def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("llama.block_count") + struct.pack("<II", 4, 2),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("scores") + struct.pack("<IIQff", 9, 6, 2, 0.0, 1.0),
    ]
    tensor = text("w") + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32 + 16)


def _mutate_file(content: bytes, name: str, draw: random.Random) -> bytes:
    if name.endswith(".json") and draw.random() < 0.7:
        return dump(mutate(json.loads(content), draw))
    if name.endswith(".safetensors") and draw.random() < 0.7:
        (length,) = struct.unpack("<Q", content[:8])
        header = dump(mutate(json.loads(content[8 : 8 + length]), draw))
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    broken = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(broken) + 1) - 1
        match draw.randrange(4):
            case 0:
                broken[place : place + 1] = draw.randbytes(1)
            case 1:
                broken[place : place + 1] = draw.randbytes(draw.randint(0, 9))
            case 2:
                broken[place : place + 8] = draw.choice([b"\xff" * 8, bytes(8), b"[" * 5000])
            case _:
                del broken[max(place, 1) :]
    return bytes(broken)
