"""A model and the machine it runs on, described for the record."""

from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING

from icl_bench.models.sources.spec import ModelSpec
from icl_bench.records.parts import Environment, ModelInfo
from icl_bench.running.cache import KnownModel

if TYPE_CHECKING:
    from icl_bench.models.model import Model


def describe_model(
    model: Model, spec: ModelSpec, slug: str, weights: str | None = None
) -> ModelInfo:
    """Describe an open model, with the weights that it has now, for the record.

    Args:
        model: the open model.
        spec: how the user named it.
        slug: its name in ids and folders.
        weights: the digest of its weights, if it is known.
    """
    from icl_bench.models.module.vocabulary import fingerprint

    def per_layer(place: int) -> int | list[int] | None:
        counts = [shape[place] for _, shape in sorted(model.shapes.items())]
        return (counts[0] if len(set(counts)) == 1 else counts) if counts else None

    named = spec.describe(slug)
    named["origin"] = spec.origin or model.origin
    return ModelInfo(
        **named,
        revision=model.revision,
        adapter=model.adapter,
        base=model.base,
        base_revision=model.base_revision,
        quantization=model.quantization,
        remarks=model.remarks,
        tokenizer_note=model.tokenizer_note,
        # Not the model's own, remembered one: whoever wraps a model may train it between two runs.
        fingerprint=weights or fingerprint(model.model),
        architecture=type(model.model).__name__,
        layers=model.layers,
        heads=per_layer(0),
        kv_heads=per_layer(1),
        parameters=model.parameters,
        dtype=model.dtype,
        attention=model.attention,  # type: ignore[arg-type]
        attention_note=model.no_heads or model.attention_note,
        bos=model.bos,
    )


def describe_environment(model: Model | None = None) -> Environment:
    """Describe this process for the record; without a model torch is not imported.

    Args:
        model: the open model, or None.
    """
    environment = Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        git=_git_commit(),
    )
    if model is not None:
        import torch
        import transformers

        from icl_bench.models.module.placement import describe_placement

        environment.torch = torch.__version__
        environment.transformers = transformers.__version__
        environment.device = describe_placement(model.model)
        environment.threads = torch.get_num_threads()
    return environment


def describe_again(known: KnownModel, spec: ModelSpec, slug: str) -> tuple[ModelInfo, Environment]:
    """Describe a model that an earlier run opened, and that is not opened now.

    What concerns the opened model is told as it was then, the rest as it is now.

    Args:
        known: what the earlier run knew.
        spec: how the user named it now.
        slug: its name in ids and folders.
    """
    environment = describe_environment()
    for name in ("torch", "transformers", "device", "threads"):
        setattr(environment, name, getattr(known.environment, name))
    return known.model.model_copy(update=spec.describe(slug)), environment


def _git_commit() -> str | None:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None
