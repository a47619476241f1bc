"""A model in the middle of its training, and everything that measuring it must leave alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SMALL = """\
icl_suite: 1
name: small
defaults: {sequences: 16, period: 8, seed: 5}
measure:
  repeats: {probe: induction}
  collapse:
    {probe: ablation, heads: {from: repeats, top: 2}, method: resample, null_draws: 2, null_sets: 2}
checks:
  - {id: has-induction-heads, on: repeats, metric: induction_max, above: 0.4}
"""
"""A suite that draws and ablates and takes a tenth of a second."""


def write_suite(folder: Path) -> Path:
    """Write the suite `small` into a folder and return its path."""
    path = folder / "small.yaml"
    path.write_text(SMALL)
    return path


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and this process that training goes on from.

    Tensors are copied; what may be replaced unnoticed is told by its identity.
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state(),
        "gradients on": torch.is_grad_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    }
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        state[f"weight {name}"] = parameter.detach().clone()
        state[f"about {name}"] = (id(parameter), parameter.requires_grad, id(gradient))
        state[f"gradient {name}"] = None if gradient is None else gradient.clone()
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key.startswith("_") and isinstance(value, dict):
                # Hooks, parameters, buffers, modules: the dictionary and what is in it.
                state[f"in {name}.{key}"] = [(inner, id(held)) for inner, held in value.items()]
            state[f"of {name}.{key}"] = id(value)
        for key, buffer in module.named_buffers(recurse=False):
            state[f"buffer {name}.{key}"] = buffer.clone()
        config = getattr(module, "config", None)
        if config is not None:
            state[f"config {name}"] = {key: repr(value) for key, value in vars(config).items()}
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is not the same in two states, bit for bit."""
    names = sorted(before.keys() ^ after.keys())
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        if isinstance(one, torch.Tensor):
            if not torch.equal(one, other):
                names.append(name)
        elif one != other:
            names.append(name)
    return sorted(names)
