"""A checkpoint in a folder or on a hub -> model and tokenizer, by transformers.

Torch and transformers are imported when a model is loaded, not with this module.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.models.module.adapters import apply_adapters, without_adapter
from icl_bench.models.module.placement import keep_offloaded, split_options
from icl_bench.models.module.quantized_files import describe_method, find_quantization
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import load_tokenizer
from icl_bench.models.module.weights import check_loading_info, explain_failure
from icl_bench.models.sources.source import LoadedParts, Opening
from icl_bench.options import SPLIT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_pretrained(
    source: str, how: Opening, *, commit: str | None = None, cached: bool = False
) -> LoadedParts:
    """Load model and tokenizer of a checkpoint.

    Args:
        source: folder or hub id.
        how: data type, whether the model is spread over all devices, what is trusted.
        commit: of a hub id.
        cached: whether the hub is not to be asked.

    Raises:
        ModelError: it cannot be loaded, or its weights are incomplete.
        UnsupportedModel: it is no causal language model that transformers knows.
    """
    from icl_bench.models.module.quantization import describe_quantization

    options = how.options
    load: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if commit is not None:
        load.update(revision=commit, local_files_only=cached)
    split = options.device == SPLIT
    adapter = None
    with silenced(), _no_conversion_request():
        with contextlib.ExitStack() as stack:
            placing = stack.enter_context(split_options()) if split else {}
            plain = stack.enter_context(without_adapter(source))
            model = _load_model(plain, how.dtype, options.allow_pickle, {**load, **placing})
            if split:
                keep_offloaded(model, placing)
        if plain != source:
            model, (told,) = apply_adapters(model, [Path(source)])
            adapter = f"{told}, in the folder of the weights"
        tokenizer, note = load_tokenizer(source, load)
    quantization = None
    if describe_quantization(model) is None and (stored := _read_quantization(source, load)):
        quantization = f"{stored}, unpacked when it was opened"
    return LoadedParts(model, tokenizer, commit, note, adapter, quantization=quantization)


def _read_quantization(source: str, load: dict[str, Any]) -> str | None:
    """What a checkpoint's config says of quantized weights, which the model may have unpacked."""
    from transformers import PretrainedConfig

    where = {name: value for name, value in load.items() if name != "trust_remote_code"}
    config, _ = PretrainedConfig.get_config_dict(source, **where)
    content = find_quantization(config)
    return None if content is None else describe_method(content)


_UNKNOWN = "Unrecognized configuration class"
_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def _load_model(
    source: str, dtype: torch.dtype | None, allow_pickle: bool, options: dict[str, Any]
) -> PreTrainedModel:
    import transformers

    # Makes the built-in models' architecture known to transformers: they can be trained anew.
    import icl_bench.reference.architecture  # noqa: F401

    options = {
        "dtype": "auto" if dtype is None else dtype,
        "use_safetensors": None if allow_pickle else True,
        # Not to accept them: to name them all in an error of our own.
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
        **options,
    }
    # Wrappers of a language model see images or hear sound too; without these it runs alone.
    classes: list[Any] = [
        getattr(transformers, name)
        for name in _CLASSES
        if hasattr(transformers, name)  # the last one is of transformers 5
    ]
    unknown: ValueError | None = None
    try:
        for auto in classes:
            try:
                model, info = auto.from_pretrained(source, **options)
                break
            except ValueError as error:
                if _UNKNOWN not in str(error):
                    raise
                unknown = unknown or error
        else:
            assert unknown is not None
            raise unknown
    except Exception as error:
        text = str(error)
        if _UNKNOWN in text:
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
