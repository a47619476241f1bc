"""A tiny random model of every type that transformers offers as a causal language model.

`python tests/registry.py --write` walks them all and writes the table in docs/models.md.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tinyconfigs import make_config
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VARIANTS = [
    "bert[is_decoder=True]",
    "big_bird[is_decoder=True]",
    "big_bird[is_decoder=True, attention_type=original_full]",
    "falcon[alibi=True]",
    "falcon[alibi=True, new_decoder_architecture=True]",
    "falcon[alibi=True, multi_query=False, num_kv_heads=4]",
    "falcon[multi_query=False, num_kv_heads=4]",
    "falcon[new_decoder_architecture=True]",
    "gpt_bigcode[multi_query=False]",
    "megatron-bert[is_decoder=True]",
    "rembert[is_decoder=True]",
    "roberta[is_decoder=True]",
    "roformer[is_decoder=True]",
    "xlm[causal=True]",
    "xlm-roberta[is_decoder=True]",
]
UNBUILT = {
    "gemma3n": "its picture tower needs the package timm; its text model is gemma3n_text",
    "gemma4_assistant": "a drafting head on another model's hidden states; none is built from a "
    "config",
    "gemma4_unified_assistant": "a drafting head on another model's hidden states; none is built "
    "from a config",
}
"""Types of which transformers builds no model from a config alone, and why."""
TYPES = sorted(
    kind
    for kind in [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS]
    if kind.partition("[")[0] in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
)
"""Those of the installed transformers."""


def build(kind: str, seed: int = 0, attention: str | None = None) -> Any:
    """Return a random model with weights large enough for attention to be far from even.

    Args:
        kind: a type or a variant of one.
        seed: of the weights; the global random state is left as it was.
        attention: attention implementation; None for the model's own default.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = make_config(kind)
        factory: Any = AutoModelForCausalLM.from_config
        if kind.startswith("musicgen"):
            factory = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])._from_config
        model = factory(config, dtype=torch.float32, attn_implementation=attention)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.12)
                elif "sink" in name:
                    parameter.normal_(0, 1)
    return model.eval()


DOCS = Path(__file__).parents[1] / "docs" / "models.md"
START = "<!-- table: python tests/registry.py --write -->"


@dataclass(frozen=True)
class Row:
    """What the walk finds for one type.

    Args:
        kind: the type, or a variant of it.
        path: fused, chunked, eager, none or refused.
        note: why it is not fused.
    """

    kind: str
    path: str
    note: str

    def __str__(self) -> str:
        return f"| `{self.kind}` | {self.path} | {self.note} |"


def open_model(kind: str) -> Any:
    """Return the icl_bench Model of a type.

    Raises:
        ModelError: it is refused.
    """
    import icl_bench

    return icl_bench.wrap(build(kind))


def describe(kind: str, found: Any) -> Row:
    """Return the row of a type.

    Args:
        kind: the type.
        found: its Model, or the error with which it was refused.
    """
    if isinstance(found, Exception):
        note = re.sub(r"^\w+: ", "", str(found))
        inside = re.fullmatch(r"no way to read .* numbers \((.*)\)", note, re.DOTALL)
        return Row(kind, "refused", _settle(inside.group(1) if inside else note))
    note = found.no_heads or found.attention_note or ""
    if found.shapes and len(found.shapes) < found.layers:
        attending = ", ".join(map(str, sorted(found.shapes)))
        note = f"heads in layers {attending} of 0 to {found.layers - 1}; {note}".removesuffix("; ")
    return Row(kind, found.attention, _settle(note))


def _settle(note: str) -> str:
    """Return a note on one line and without numbers that depend on the machine's rounding."""
    return re.sub(r" \(?(off )?by \d[\d.e+-]*( of their range|\))?", "", " ".join(note.split()))


def walk(kind: str) -> Row:
    """Return what becomes of a type."""
    from icl_bench.errors import ModelError

    if kind in UNBUILT:
        return Row(kind, "refused", UNBUILT[kind])
    try:
        return describe(kind, open_model(kind))
    except ModelError as error:
        return describe(kind, error)


def render(rows: list[Row]) -> str:
    """Return the table of all types."""
    paths = ("fused", "chunked", "eager", "none", "refused")
    plain = [row for row in rows if "[" not in row.kind]
    counts = ", ".join(f"{sum(r.path == path for r in plain)} {path}" for path in paths)
    head = f"transformers {transformers.__version__}: {len(plain)} types, {counts}."
    return "\n".join(
        [START, "", head, "", "| type | path | note |", "|---|---|---|", *map(str, rows), ""]
    )


def committed() -> tuple[str, dict[str, str]]:
    """Return the transformers version of the committed table, and type -> its line."""
    text = DOCS.read_text().partition(START)[2]
    version = re.search(r"^transformers (\S+):", text, re.MULTILINE)
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    return version.group(1) if version else "", lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    table = render([walk(kind) for kind in TYPES])
    if "--write" in sys.argv:
        DOCS.write_text(DOCS.read_text().partition(START)[0] + table)
    else:
        print(table)
