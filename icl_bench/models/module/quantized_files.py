"""What a config says of quantized weights: the method, its bits, and the packages that it needs.

Nothing here imports torch, so that a missing package is said before anything is opened.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from icl_bench.errors import SpecError

METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bitsandbytes": ("bitsandbytes", ("bitsandbytes", "accelerate")),
    "torchao": ("torchao", ("torchao",)),
    "compressed-tensors": ("compressed-tensors", ("compressed-tensors",)),
    "fp8": ("fine-grained FP8", ()),
    "gptq": ("GPTQ", ("gptqmodel", "optimum")),
    "awq": ("AWQ", ("gptqmodel", "accelerate")),
    "aqlm": ("AQLM", ("aqlm", "accelerate")),
    "auto-round": ("AutoRound", ("auto-round",)),
    "bitnet": ("BitNet", ("accelerate",)),
    "eetq": ("EETQ", ("eetq", "accelerate")),
    "fbgemm_fp8": ("FBGEMM FP8", ("fbgemm-gpu", "accelerate")),
    "fp_quant": ("FP-Quant", ("fp-quant",)),
    "higgs": ("HIGGS", ("flute-kernel", "accelerate")),
    "hqq": ("HQQ", ("hqq",)),
    "mxfp4": ("MXFP4", ()),
    "quanto": ("quanto", ("optimum-quanto",)),
    "quark": ("Quark", ("amd-quark",)),
    "spqr": ("SpQR", ("spqr_quant", "accelerate")),
    "vptq": ("VPTQ", ("vptq", "accelerate")),
}
"""`quant_method` -> what it is called, and the packages that loading it needs."""
_MODULES = {
    "amd-quark": "quark",
    "fbgemm-gpu": "fbgemm_gpu",
    "flute-kernel": "flute",
    "optimum-quanto": "optimum.quanto",
}
"""Package -> module, where the names differ by more than the dash."""


def find_quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a config says of quantized weights, or None.

    Args:
        config: the parsed config.json.
    """
    for part in (config, config.get("text_config"), config.get("llm_config")):
        for name in ("quantization_config", "compression_config"):
            content = part.get(name) if isinstance(part, dict) else None
            if isinstance(content, dict) and content:
                return content
    return None


def check_packages(config: Mapping[str, Any]) -> None:
    """Refuse quantized weights that need a package which is not installed.

    Args:
        config: the parsed config.json.

    Raises:
        SpecError: it names the packages.
    """
    content = find_quantization(config)
    if content is None:
        return
    name, packages = METHODS.get(_method_of(content), ("", ()))
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        raise SpecError(
            f"its weights are quantized ({name}), and loading them needs "
            f"{'a package that is' if len(missing) == 1 else 'packages that are'} not installed: "
            f"pip install {' '.join(missing)}"
        )


def _is_there(package: str) -> bool:
    module = _MODULES.get(package, package.replace("-", "_"))
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a module's parent
        return False


def describe_method(content: Mapping[str, Any]) -> str:
    """Return method and bits of quantized weights, such as `bitsandbytes nf4, 4 bits`.

    Args:
        content: the `quantization_config` of a config.
    """
    method = _method_of(content)
    name = METHODS.get(method, (method or "unknown method", ()))[0]
    if method == "bitsandbytes" and content.get("load_in_4bit"):
        return f"{name} {content.get('bnb_4bit_quant_type', 'fp4')}, 4 bits"
    if method == "bitsandbytes":
        return f"{name} LLM.int8, 8 bits"
    kind = _kind_of(content)
    found = sorted({*_bits_in(content)})
    if not found and (
        said := re.search(r"(?:int|float|fp|nf|mx)\D{0,2}(\d+)", f"{kind} {method}", re.I)
    ):
        found = [int(said[1])]
    bits = f", {' and '.join(map(str, found))} bits" if found else ""
    return f"{name}{f' {kind}' if kind else ''}{bits}"


def _method_of(content: Mapping[str, Any]) -> str:
    method = content.get("quant_method")
    if method is None and (content.get("load_in_4bit") or content.get("load_in_8bit")):
        return "bitsandbytes"
    return str(getattr(method, "value", method) or "").lower()


def _kind_of(content: Mapping[str, Any]) -> str:
    """The variant of a method, where its config names one."""
    kind = content.get("format") or content.get("quant_type")
    while isinstance(kind, dict) and kind:
        kind = kind.get("_type") or next(iter(kind.values()))
    if kind is None or isinstance(kind, (str, int)):
        return str(kind or "")
    return type(kind).__name__


def _bits_in(content: Mapping[str, Any]) -> Iterator[int]:
    for name in ("bits", "w_bit", "weight_bits", "nbits"):
        if isinstance(content.get(name), int):
            yield content[name]
    groups = content.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and isinstance(weights.get("num_bits"), int):
            yield weights["num_bits"]
