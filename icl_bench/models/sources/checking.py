"""Whether what a spec names is there and can be read, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.errors import SpecError
from icl_bench.models.sources.series import Checkpoint, find_steps
from icl_bench.models.sources.spec import HUB_ID, ModelSpec, suggest_local

if TYPE_CHECKING:
    from icl_bench.models.sources.hub import HubModel


def check_spec(
    spec: ModelSpec, *, allow_pickle: bool = False
) -> HubModel | tuple[Checkpoint, ...] | None:
    """Check that what a spec names exists, can be read and can be a causal language model.

    Reads headers only; a hub id costs a few short requests.

    Args:
        spec: a parsed spec.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        where a hub id was found, for the hub not to be asked again; of a series its checkpoints;
        None for everything else.

    Raises:
        SpecError: something is missing, broken or not a model; the message says what.
    """
    try:
        if spec.series is not None:
            return check_series(spec, allow_pickle=allow_pickle)
        if spec.kind == "folder":
            from icl_bench.models.sources.folder import check_folder

            check_folder(Path(spec.target), allow_pickle=allow_pickle)
        elif spec.kind == "gguf":
            from icl_bench.models.sources.ggufheader import check_gguf

            check_gguf(Path(spec.target))
        elif spec.kind == "hub":
            from icl_bench.models.sources.hub import find_on_hub

            return find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)
        elif spec.kind == "callable":
            from icl_bench.models.sources.callable_source import check_callable

            check_callable(spec.target)
    except SpecError as error:
        hint = ""
        if spec.kind in ("folder", "gguf") and not os.path.exists(spec.target):
            hint = suggest_local(spec.text if spec.series is None else spec.text.rpartition("@")[0])
        elif spec.kind == "folder" and HUB_ID.fullmatch(spec.text):
            hint = " (in the local folder of that name, which wins over a hub id)"
        raise SpecError(f"model {spec.text!r}: {error}{hint}") from None
    return None


def check_series(spec: ModelSpec, *, allow_pickle: bool = False) -> tuple[Checkpoint, ...]:
    """Check that a series has checkpoints to measure; single ones may be broken.

    Reads headers only. Of a hub's checkpoints the last is looked at, and the first where the last
    is broken, because each costs a few requests.

    Args:
        spec: a spec with `series`.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        all its checkpoints, by ascending step, the broken ones too.

    Raises:
        SpecError: there are not two checkpoints that can be read.
    """
    found = find_steps(spec)
    asked, needed = found, 2
    if spec.kind == "hub":
        asked, needed = (found[-1], found[0]), 1
    reasons: list[str] = []
    good = 0
    for checkpoint in asked:
        try:
            check_spec(checkpoint.spec, allow_pickle=allow_pickle)
            good += 1
        except SpecError as error:
            reasons.append(str(error).removeprefix("model "))
        if good == needed:
            return found
    raise SpecError(
        f"fewer than two of its {len(found)} checkpoints can be read: "
        + "; ".join(reasons[:2])
        + ("; ..." if len(reasons) > 2 else "")
    )
