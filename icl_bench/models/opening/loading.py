"""Spec -> transformers model and tokenizer, loaded, checked and ready to run.

Torch and transformers are imported when a model is loaded, not with this module, so that the
settings can be checked without them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, ModelError, SettingsError, UnsupportedModel
from icl_bench.models.module.placement import check_spread, is_spread, keep_offloaded, split_options
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import find_fault, load_tokenizer, tokenizer_files
from icl_bench.models.module.weights import check_finite, check_loading_info, explain_failure
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.folder import CAUSAL_ENDINGS
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import refuse_url

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icl_bench.models.sources.hub import HubModel

DTYPES = ("auto", "float32", "bfloat16", "float16")
SPLIT = "split"
"""As a device: over all there are, in the order accelerators, memory, disk."""
_DEVICE = re.compile(r"auto|split|cpu|mps|cuda(:\d+)?")


@dataclass
class LoadedParts:
    """A model and what came with it.

    Args:
        model: in evaluation mode, on its device, in its data type.
        tokenizer: None when there is none that works.
        revision: commit hash, when the model came from a hub.
        tokenizer_note: why there is no tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    revision: str | None = None
    tokenizer_note: str | None = None

    def settle_tokenizer(self) -> None:
        """Leave a tokenizer out that is of no use with the model, and note why there is none."""
        if self.tokenizer is not None:
            reason = find_fault(self.tokenizer, self.model)
            if reason:
                self.tokenizer, self.tokenizer_note = None, reason
        elif self.tokenizer_note is None:
            self.tokenizer_note = "the model comes without a tokenizer"


def default_cache_dir() -> Path:
    """Return where copies and results are kept: $ICL_BENCH_CACHE, else the user's cache folder."""
    chosen = os.environ.get("ICL_BENCH_CACHE")
    if chosen:
        refuse_url(chosen, "$ICL_BENCH_CACHE")
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "icl_bench"


def check_device(text: str) -> None:
    """Raise SettingsError when `text` names no device, or one that this machine has not.

    Torch is imported only where an accelerator is asked for by name.

    Args:
        text: auto, split, cpu, cuda, cuda:N or mps.
    """
    if not _DEVICE.fullmatch(text):
        raise SettingsError(f"unknown device {text!r}; use auto, split, cpu, cuda, cuda:N or mps")
    if text == SPLIT:
        if importlib.util.find_spec("accelerate") is None:
            raise SettingsError(f"device {text!r} needs accelerate: pip install 'icl-bench[split]'")
    elif text not in ("auto", "cpu"):
        _find_device(text)


def check_dtype(text: str) -> None:
    """Raise SettingsError when `text` names no data type that models can be loaded in.

    Args:
        text: auto, float32, bfloat16 or float16.
    """
    if text not in DTYPES:
        raise SettingsError(f"unknown dtype {text!r}; use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")


def load_parts(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    cache_dir: Path | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    found: HubModel | None = None,
) -> LoadedParts:
    """Load what a spec names.

    Args:
        spec: a parsed spec.
        device: auto (CUDA where there is one, else CPU), cpu, cuda, cuda:N, mps, or split (over
            all devices, then memory, then disk; only for what is read from files).
        dtype: auto (float32 on CPU, else the model's own), float32, bfloat16 or float16.
        cache_dir: where float copies of GGUF files are kept; None for the default.
        trust_remote_code: let a checkpoint bring its own code.
        allow_pickle: accept weights that are stored as pickles.
        found: where a hub id was found; None to ask.

    Raises:
        SettingsError: device or dtype is unknown, or the device is not there.
        SpecError: what the spec names is missing, broken or not a model.
        ModelError: it cannot be loaded, or its weights are incomplete or not finite.
        UnsupportedModel: it is no causal language model that transformers knows, or its weights
            are split over processes.
    """
    check_device(device)
    check_dtype(dtype)
    place = _find_device(device)
    kind = _find_dtype(dtype, place)
    if spec.kind != "hub":
        check_spec(spec, allow_pickle=allow_pickle)
    try:
        if spec.kind == "builtin":
            reference = importlib.import_module("icl_bench.reference")
            step = None if spec.revision is None else int(spec.revision)
            parts = LoadedParts(*reference.load(spec.target, step))
        elif spec.kind == "callable":
            from icl_bench.models.sources.callable_source import call

            parts = LoadedParts(*call(spec.target))
        else:
            split = device == SPLIT
            parts = _load_pretrained(
                spec, kind, split, cache_dir, trust_remote_code, allow_pickle, found
            )
        from icl_bench.models.module.sharding import refuse_split

        refuse_split(parts.model)
        _check_kind(parts.model)
        _place(parts.model, place, kind)
        check_finite(parts.model)
    except IclError as error:
        raise type(error)(f"model {spec.text!r}: {error}") from error.__cause__
    parts.settle_tokenizer()
    return parts


def _find_device(text: str) -> torch.device:
    import torch

    if text in ("auto", SPLIT):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(text)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingsError(
            f"device {text!r} is not there: torch sees {count} CUDA devices; use cpu"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device {text!r} is not there; use cpu")
    return place


def _find_dtype(text: str, place: torch.device) -> torch.dtype | None:
    """Return the data type to load in; None for the model's own."""
    import torch

    if text == "auto":
        return torch.float32 if place.type == "cpu" else None
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[text]


def _load_pretrained(
    spec: ModelSpec,
    dtype: torch.dtype | None,
    split: bool,
    cache_dir: Path | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    found: HubModel | None,
) -> LoadedParts:
    source, commit = spec.target, None
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if spec.kind == "hub":
        if found is None:
            from icl_bench.models.sources.hub import find_on_hub

            found = find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)
        commit = found.commit
        options.update(revision=commit, local_files_only=found.cached)
    elif spec.kind == "gguf":
        from icl_bench.models.sources.gguf import float_copy

        source = str(float_copy(Path(spec.target), cache_dir or default_cache_dir()))
    with silenced(), _no_conversion_request():
        with contextlib.ExitStack() as stack:
            placing = stack.enter_context(split_options()) if split else {}
            model = _load_model(source, dtype, allow_pickle, {**options, **placing})
            if split:
                keep_offloaded(model, placing)
        if spec.kind == "gguf" and not tokenizer_files(Path(source)):
            from icl_bench.models.sources.gguf import load_gguf_tokenizer

            # What was missing when the copy was made, a package perhaps, may be there by now.
            tokenizer, note = load_gguf_tokenizer(Path(spec.target))
        else:
            tokenizer, note = load_tokenizer(source, options)
    return LoadedParts(model, tokenizer, commit, note)


def _load_model(
    source: str, dtype: torch.dtype | None, allow_pickle: bool, options: dict[str, Any]
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    # Makes the built-in models' architecture known to transformers: they can be trained anew.
    importlib.import_module("icl_bench.reference.architecture")
    auto: Any = AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(
            source,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=None if allow_pickle else True,
            # Not to accept them: to name them all in an error of our own.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        text = str(error)
        if "Unrecognized configuration class" in text:
            name = re.search(r"configuration class <class '[^']*?(\w+)'>", text)
            which = f" ({name.group(1)})" if name else ""
            raise UnsupportedModel(
                f"not a causal language model that transformers knows{which}"
            ) from error
        raise ModelError(f"it cannot be loaded: {explain_failure(error)}") from error
    check_loading_info(info)
    loaded: PreTrainedModel = model
    return loaded


@contextlib.contextmanager
def _no_conversion_request() -> Iterator[None]:
    # Loading a pickle from a hub would otherwise ask a service to convert it, in the background.
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _check_kind(model: Any) -> None:
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False) and not name.endswith(CAUSAL_ENDINGS):
        raise UnsupportedModel(f"{name} is not a causal language model")
    if model.get_output_embeddings() is None and model.base_model is model:
        raise UnsupportedModel(f"{name} has no language-modelling head")


def _place(model: Any, place: torch.device, dtype: torch.dtype | None) -> None:
    """Move a model; rotary frequencies and their like keep their precision."""
    if is_spread(model):
        check_spread(model)
        model.eval()
        return
    kept = [
        (module, name, module._buffers[name])
        for module in model.modules()
        for name in module._non_persistent_buffers_set
    ]
    try:
        if dtype is not None and any(
            p.dtype != dtype for p in model.parameters() if p.is_floating_point()
        ):
            model.to(dtype)
            for module, name, buffer in kept:
                module._buffers[name] = buffer
        model.to(place)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelError(f"it cannot be moved to {place}: {explain_failure(error)}") from error
    model.eval()
