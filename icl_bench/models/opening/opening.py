"""Spec and options -> an open Model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_bench.errors import ModelError
from icl_bench.models.handle import ModelName
from icl_bench.models.model import Model
from icl_bench.models.module.memory import opening_within_memory
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.source import Found, LoadedParts
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions


def open_model(
    spec: ModelSpec, slug: str, options: RunOptions, found: Found | None = None
) -> Model:
    """Load what a spec names and check that its heads can be read.

    Args:
        spec: which model.
        slug: its name in ids and folders.
        options: device, dtype, batch size, cache, what is trusted.
        found: what checking it returned; None to check it.

    Raises:
        ModelError: it cannot be loaded or run.
    """
    spec.require_one()
    with opening_within_memory(spec.text, size_on_disk(spec)):
        parts = load(spec, options, found)
        return make_model(parts, spec, slug, options)


def size_on_disk(spec: ModelSpec) -> int | None:
    """Return bytes of the weights that a spec names; None where they are not local files.

    Args:
        spec: which model.
    """
    if spec.base is not None and (size := size_on_disk(spec.base)):
        return size
    path = Path(spec.target)
    try:
        files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.bin")]
        return sum(file.stat().st_size for file in files) or None
    except (OSError, ValueError):
        return None


def load(spec: ModelSpec, options: RunOptions, found: Found | None = None) -> LoadedParts:
    """Load what a spec names as the options say.

    Args:
        spec: which model.
        options: device, dtype, cache, what is trusted.
        found: what checking it returned; None to check it.

    Raises:
        ModelError: it cannot be loaded.
    """
    return load_parts(spec, found=found, **vars(options))


def make_model(parts: LoadedParts, spec: ModelSpec, slug: str, options: RunOptions) -> Model:
    """Check that the heads of a loaded model can be read, and return it ready to be measured.

    Args:
        parts: what was loaded.
        spec: which model.
        slug: its name in ids and folders.
        options: its batch size.

    Raises:
        ModelError: it cannot be run.
    """
    return Model(
        parts.model,
        parts.tokenizer,
        ModelName(
            spec.public,
            slug,
            spec.origin,
            parts.revision,
            parts.adapter,
            parts.base,
            parts.base_revision,
            parts.quantization,
        ),
        batch_size=options.batch_size,
        tokenizer_note=parts.tokenizer_note,
    )


def wrap(model: Any, tokenizer: Any | None = None, *, batch_size: int | None = None) -> Model:
    """Wrap an open transformers model; the module itself is left as it is.

    Of what training puts around a model (torch.compile, DataParallel, PeftModel and their like),
    the transformers model inside is wrapped, with the adapters that are active in it.

    Args:
        model: a causal language model of transformers, or one wrapped for training.
        tokenizer: its tokenizer, or None (text items are then skipped).
        batch_size: rows of a forward pass; None to choose.

    Raises:
        ModelError: there is no transformers model in it, or it cannot be run.
        UnsupportedModel: its weights are split over processes, its adapter adds tokens to each
            prompt, or no way to read its heads gives right numbers.
    """
    from icl_bench.models.module.unwrapping import describe_adapters, find_module

    if isinstance(model, Model):
        raise ModelError("it is wrapped already: use it as it is, or wrap its .model")
    if isinstance(model, str):
        raise ModelError(
            f"expected a transformers model (PreTrainedModel), not {model!r}; "
            "icl_bench.load_model(NAME) opens a model by its name"
        )
    module = find_module(model)
    if tokenizer is not None and not callable(getattr(tokenizer, "get_vocab", None)):
        given = repr(tokenizer) if isinstance(tokenizer, str) else type(tokenizer).__name__
        raise ModelError(
            f"expected a transformers tokenizer, not {given}; "
            "AutoTokenizer.from_pretrained(NAME) opens one, None skips what needs text"
        )
    name = ModelName(adapter=describe_adapters(module))
    return Model(module, tokenizer, name, batch_size=batch_size)
