"""What must hold of weights once they are loaded, and why loading failed, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError
from icl_bench.models.module.leftovers import explain_leftovers
from icl_bench.models.module.placement import fetch_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MESSAGE_LENGTH = 300
"""Longest piece of a library's message that is passed on."""


def check_loading_info(info: Mapping[str, Any]) -> None:
    """Check that every weight came from the checkpoint, and that all of it is used.

    Args:
        info: what `from_pretrained(output_loading_info=True)` returned.

    Raises:
        ModelError: some weights are missing or have another shape and would be random, or the
            checkpoint holds more than the model uses.
    """
    mismatched = sorted(info.get("mismatched_keys") or (), key=str)
    if mismatched:
        first = mismatched[0]
        name = first if isinstance(first, str) else first[0]
        shapes = (
            "" if isinstance(first, str) else f" ({_shape(first[1])} instead of {_shape(first[2])})"
        )
        raise ModelError(
            f"{len(mismatched)} weights have another shape than config.json asks for: "
            f"{name}{shapes}; the config does not belong to these weights"
        )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        unused = explain_leftovers(info.get("unexpected_keys") or ())
        raise ModelError(
            f"{len(missing)} weights are missing from the checkpoint and would be random: "
            f"{_first(missing)}{f'; {unused}' if unused else ''}"
        )
    errors = [str(message) for message in info.get("error_msgs") or ()]
    if errors:
        raise ModelError(f"its weights could not be loaded: {errors[0].splitlines()[0]}")
    if reason := explain_leftovers(info.get("unexpected_keys") or ()):
        raise ModelError(reason)


def check_finite(model: PreTrainedModel) -> None:
    """Check that no weight is NaN or infinite.

    Args:
        model: a loaded model.

    Raises:
        ModelError: one is; the message names the first such tensor.
    """
    import torch

    from icl_bench.models.module.quantization import is_packed, is_wrapped

    for name, parameter in model.named_parameters():
        weight = fetch_values(model, name, parameter)
        if is_wrapped(weight):
            weight = weight.dequantize()
        # Packed 8-bit and integer types have no such values, or no test for them.
        if is_packed(weight) or not weight.is_floating_point() or weight.element_size() < 2:
            continue
        bad = int((~torch.isfinite(weight.detach())).sum())
        if bad:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ModelError(
                f"{bad} of {weight.numel()} values of {name} are NaN or infinite (as {kind})"
            )


def explain_failure(error: BaseException) -> str:
    """Return an exception of a library as one sentence.

    Args:
        error: what was raised.
    """
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "it needs code from its own repository; give --icl-trust-remote-code if you trust it"
    if len(text) > _MESSAGE_LENGTH:
        text = f"{text[: _MESSAGE_LENGTH - 3]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shape(size: Iterable[int]) -> str:
    return " x ".join(str(part) for part in size) or "scalar"


def _first(names: list[str]) -> str:
    listed = ", ".join(names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed
