"""Built-in models: small, exact or trained here, and there without a download.

This file only names them; it does not import torch. `load` does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.errors import ModelError, SpecError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DESCRIPTIONS: dict[str, str] = {
    "handwired": "an exact induction circuit, weights written by hand; every answer is known",
    "induction-2l": "2 attention layers, trained until the induction circuit formed",
    "control-1l": "its one-layer twin, trained the same way; it cannot form the circuit",
}
"""Name -> one line. `handwired-shift-N` (N from 1 to 9) is accepted as well: the hand-wired model
whose previous-token head looks N tokens back."""

NAMES: tuple[str, ...] = tuple(DESCRIPTIONS)
"""Names of the built-in models."""

WEIGHTS = Path(__file__).parent / "weights"
"""Folder that holds one folder per trained model."""

_SHIFTED = re.compile(r"handwired-shift-([1-9])")


def is_name(name: str) -> bool:
    """Return whether `name` is a built-in model.

    Args:
        name: what stands after `builtin:` in a model spec.
    """
    return name in NAMES or _SHIFTED.fullmatch(name) is not None


def series_steps(name: str) -> tuple[int, ...]:
    """Return the optimizer steps of which a checkpoint is shipped, ascending; () where none is.

    Args:
        name: name of a built-in model.

    Raises:
        ModelError: the list of checkpoints is broken.
    """
    return _series(WEIGHTS / name)[0]


def training_losses(name: str) -> dict[int, float]:
    """Return the training loss in nats at every step, as recorded; empty where none was.

    Args:
        name: name of a built-in model.

    Raises:
        ModelError: the record is broken.
    """
    return dict(enumerate(_series(WEIGHTS / name)[1], start=1))


def load(name: str, step: int | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a built-in model in evaluation mode, float32 on the CPU, and its tokenizer.

    Args:
        name: one of `NAMES`, or `handwired-shift-N`.
        step: one of `series_steps(name)` for the model as it was then; None for the finished one.

    Raises:
        SpecError: there is no such model or checkpoint; the message names the nearest one.
        ModelError: the weights of a trained model are missing or broken.
    """
    if not is_name(name):
        raise SpecError(f"there is no built-in model {name!r}; {nearest(name, NAMES)}")
    if step is not None:
        _check_step(name, step)
    from icl_bench.reference.tokenizer import build_tokenizer

    model: PreTrainedModel
    shifted = _SHIFTED.fullmatch(name)
    if shifted or name == "handwired":
        from icl_bench.reference.handwired import handwired

        model = handwired(shift=int(shifted[1]) if shifted else 1)
    else:
        model = _load_trained(WEIGHTS / name, step)
    return model, build_tokenizer(model.config.max_position_embeddings)


def _series(folder: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Steps and losses that `series.json` lists; none where there is no such file."""
    file = folder / "series.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        steps = [int(step) for step in content["steps"]]
        losses = [float(loss) for loss in content["losses"]]
        if steps != sorted(set(steps)):
            raise ValueError("its steps are not in order")
    except FileNotFoundError:
        return (), ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the list of checkpoints of the built-in model {folder.name!r} cannot be read from "
            f"{file} ({error}); reinstall icl-bench"
        ) from None
    return tuple(steps), tuple(losses)


def _check_step(name: str, step: int) -> None:
    steps = series_steps(name)
    if not steps:
        raise SpecError(f"the built-in model {name!r} has no checkpoints, only its final state")
    if step not in steps:
        below = [str(other) for other in steps if other < step][-1:]
        above = [str(other) for other in steps if other > step][:1]
        raise SpecError(
            f"the built-in model {name!r} has no checkpoint of step {step}; "
            f"the nearest: {' and '.join(below + above)}"
        )


def _load_trained(folder: Path, step: int | None) -> PreTrainedModel:
    # By hand, because `from_pretrained` draws a progress bar for two files of a megabyte.
    import torch
    from safetensors.torch import load_file

    from icl_bench.reference.architecture import IclReferenceForCausalLM
    from icl_bench.reference.configuration import IclReferenceConfig
    from icl_bench.reference.packing import read_step

    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, then overwritten
        try:
            config = IclReferenceConfig.from_json_file(folder / "config.json")
            model = IclReferenceForCausalLM(config)
            if step is None:
                model.load_state_dict(load_file(folder / "model.safetensors"))
            else:
                model.load_state_dict(read_step(folder, step))
        except Exception as error:
            why = " ".join(str(error).split())[:200]  # torch lists every weight that does not fit
            raise ModelError(
                f"the weights of the built-in model {folder.name!r} cannot be read from {folder} "
                f"({why}); reinstall icl-bench, or train them with `icl-bench train-reference`"
            ) from None
    return model.eval()
