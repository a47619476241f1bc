"""Checkpoints of one training run in one small file, a step of it read at a time.

Matrices are kept in 8 bits: 32 weights of a row share one half-precision scale, the largest of
their sizes over 127, as in GGUF's type Q8_0. The vectors of the norms are kept in half precision.
`series.safetensors` holds every parameter once, stacked over the steps, so that its header is
short and a step is a slice; `series.json` holds the steps with a digest of each, and the losses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from icl_bench.errors import ModelError

BLOCK = 32
"""Weights of a row that share a scale."""

SCALES = ".scales"
"""What the name of a matrix's scales ends in."""

_LARGEST = 127


def pack(steps: Mapping[int, Path], losses: Mapping[int, float], folder: Path) -> None:
    """Write `series.safetensors` and `series.json` into a folder.

    Args:
        steps: step -> folder with this checkpoint's `model.safetensors`.
        losses: step -> training loss in nats, for every step from 1 to the last.
        folder: an existing folder; files of these names in it are replaced.
    """
    stacked: dict[str, list[Tensor]] = {}
    for step in sorted(steps):
        with safe_open(steps[step] / "model.safetensors", framework="pt") as file:
            for name in sorted(file.keys()):
                for part, values in _shrink(name, file.get_tensor(name)):
                    stacked.setdefault(part, []).append(values)
    tensors = {name: torch.stack(values) for name, values in stacked.items()}
    (folder / "series.safetensors").write_bytes(save(tensors))
    digests = {
        str(step): _digest({name: values[index] for name, values in tensors.items()})
        for index, step in enumerate(sorted(steps))
    }
    content = {
        "losses": [round(losses[step], 4) for step in sorted(losses)],
        "steps": digests,
    }
    (folder / "series.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_step(folder: Path, step: int) -> dict[str, Tensor]:
    """Return one step's weights in float32, ready for `load_state_dict`; nothing else is read.

    Args:
        folder: where `series.safetensors` and `series.json` are.
        step: one of the steps that `series.json` lists.

    Raises:
        ModelError: the file is damaged.
    """
    digests = json.loads((folder / "series.json").read_text(encoding="utf-8"))["steps"]
    index = [int(text) for text in digests].index(step)
    try:
        with safe_open(folder / "series.safetensors", framework="pt") as file:
            # Slices, because old versions of safetensors take no plain index.
            stored = {
                name: file.get_slice(name)[index : index + 1][0] for name in sorted(file.keys())
            }
    except SafetensorError as error:
        raise ModelError(f"series.safetensors is damaged: {error}") from None
    if _digest(stored) != digests[str(step)]:
        raise ModelError(f"series.safetensors is damaged: the checksum of step {step} is wrong")
    return {
        name: _grow(values, stored.get(name + SCALES))
        for name, values in stored.items()
        if not name.endswith(SCALES)
    }


def _shrink(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored of a parameter: its name and values, and its scales' if it has any."""
    if weight.dim() == 1:
        yield name, weight.half()
        return
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    scales = (blocks.abs().amax(-1, keepdim=True) / _LARGEST).half()
    # By the scale as it is stored; where that is 0, the weights are below half precision's reach.
    codes = torch.where(scales > 0, blocks / scales.float(), 0.0).round()
    yield name, codes.clamp(-_LARGEST, _LARGEST).to(torch.int8)
    yield name + SCALES, scales.squeeze(-1)


def _grow(values: Tensor, scales: Tensor | None) -> Tensor:
    if scales is None:
        return values.float()
    return (values.float() * scales.float().unsqueeze(-1)).flatten(1)


def _digest(stored: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of what is stored of one step."""
    total = hashlib.sha256()
    for name in sorted(stored):
        values = stored[name].contiguous()
        total.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        total.update(values.numpy().tobytes())
    return total.hexdigest()
