"""Whether what a spec names is there and can be read, before anything is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeAlias

from icl_bench.errors import SpecError, defuse
from icl_bench.models.sources.series import Checkpoint, find_steps
from icl_bench.models.sources.source import Found
from icl_bench.models.sources.spec import ModelSpec, suggest_local
from icl_bench.models.sources.table import failing_in, get_source

Checked: TypeAlias = "Found | tuple[Checkpoint, ...] | None"
"""What checking returns: of one model what its source learned, of a series its checkpoints."""


def check_spec(spec: ModelSpec, *, allow_pickle: bool = False) -> Checked:
    """Check that what a spec names exists, can be read and can be a causal language model.

    Reads headers only; a hub id costs a few short requests.

    Args:
        spec: a parsed spec.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        what its source learned, for it not to be looked up again; of a series its checkpoints.

    Raises:
        SpecError: something is missing, broken or not a model; the message says what.
    """
    if spec.series is None:
        return check_one(spec, allow_pickle=allow_pickle)
    with _naming(spec):
        return check_series(spec, allow_pickle=allow_pickle)


def check_one(spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
    """Check that a model that is no series exists, can be read and can be a causal language model.

    Args:
        spec: a parsed spec.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        what its source learned, for it not to be looked up again.

    Raises:
        SpecError: something is missing, broken or not a model; the message says what.
    """
    with _naming(spec):
        return get_source(spec.kind).check(spec, allow_pickle=allow_pickle)


@contextlib.contextmanager
def _naming(spec: ModelSpec) -> Iterator[None]:
    """Say in errors which model it is, and what is near if it is not there."""
    try:
        with failing_in(spec.kind):
            yield
    except SpecError as error:
        hint = ""
        if spec.is_local and not os.path.exists(spec.target):
            hint = suggest_local(spec.text if spec.series is None else spec.text.rpartition("@")[0])
        raise SpecError(defuse(f"model {spec.text!r}: {error}{hint}")) from error.__cause__
    except OSError as error:  # a name that no file system takes, or a folder that must not be read
        told = error.strerror or error
        raise SpecError(defuse(f"model {spec.text!r}: cannot be read ({told})")) from None


def check_series(spec: ModelSpec, *, allow_pickle: bool = False) -> tuple[Checkpoint, ...]:
    """Check that a series has checkpoints to measure; single ones may be broken.

    Reads headers only. Of a remote source's checkpoints the last is looked at, and the first where
    the last is broken, because each costs a few requests.

    Args:
        spec: a spec with `series`.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        all its checkpoints, by ascending step, the broken ones too.

    Raises:
        SpecError: there are not two checkpoints that can be read.
    """
    checkpoints = find_steps(spec)
    asked, needed = checkpoints, 2
    if get_source(spec.kind).remote:
        asked, needed = (checkpoints[-1], checkpoints[0]), 1
    reasons: list[str] = []
    good = 0
    for checkpoint in asked:
        try:
            check_one(checkpoint.spec, allow_pickle=allow_pickle)
            good += 1
        except SpecError as error:
            reasons.append(str(error).removeprefix("model "))
        if good == needed:
            return checkpoints
    raise SpecError(
        f"fewer than two of its {len(checkpoints)} checkpoints can be read: "
        + "; ".join(reasons[:2])
        + ("; ..." if len(reasons) > 2 else "")
    )
