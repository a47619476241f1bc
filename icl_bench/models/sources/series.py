"""Series of checkpoints: which steps a spec names, and where each of them is.

A series is one training run: a folder of checkpoints, a hub repository whose revisions are
checkpoints, or a built-in model whose training is shipped. Each step is an ordinary model spec.
"""

from __future__ import annotations

import fnmatch
import importlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError, nearest
from icl_bench.models.sources.spec import ModelSpec

LOOKED_FOR = (
    "names that end in the step, such as checkpoint-500, step1000, global_step500 or iter_0005000"
)
TRAINER_STATE = "trainer_state.json"
"""Where transformers' Trainer keeps, in each checkpoint, the losses up to it."""

_STEP_INSIDE = re.compile(r"(?:^|[^A-Za-z])step[-_]?([0-9]{1,18})(?![0-9.])", re.IGNORECASE)
_STEP_AT_END = re.compile(r"(?<![0-9])(?<![0-9]\.)([0-9]{1,18})$")
_PARTS_OF_CHECKPOINT = (".safetensors", ".bin", ".index.json")
_SHOWN = 4


@dataclass(frozen=True)
class Checkpoint:
    """One step of a series.

    Args:
        step: optimizer steps done.
        spec: the checkpoint as a model of its own.
    """

    step: int
    spec: ModelSpec


def is_series(selection: str) -> bool:
    """Whether what stands after a spec's '@' names several checkpoints.

    Args:
        selection: a revision, a step, `*`, a pattern with `*`, or several of these after commas.
    """
    return "*" in selection or "," in selection


def step_of(name: str) -> int | None:
    """Return the optimizer step that a folder, branch or tag is named after, or None.

    `step1000-tokens4B` is step 1000, `iter_0005000` step 5000; `v1.5` is a version and no step.

    Args:
        name: the name.
    """
    found = _STEP_INSIDE.search(name) or _STEP_AT_END.search(name)
    return int(found[1]) if found else None


def find_local(text: str, base: str, selection: str) -> ModelSpec:
    """Return the spec of one checkpoint of a folder, or of a series of them.

    Args:
        text: the whole spec as given.
        base: the folder, which is there.
        selection: what stands after the '@'.

    Raises:
        SpecError: one checkpoint was asked for and is not there.
    """
    folder = os.path.abspath(os.path.expanduser(base))
    if is_series(selection):
        return ModelSpec(text, "folder", folder, series=selection)
    names = _steps_in(Path(folder))
    if not names:
        raise SpecError(
            f"{base!r} is a local path, and those have no revisions; leave '@{selection}' out, or "
            "give the folder that holds that revision"
        )
    ((_, name),) = _choose(names, selection, f"folder {base!r}").items()
    return ModelSpec(text, "folder", os.path.join(folder, name), selection)


def find_builtin(text: str, name: str, selection: str) -> ModelSpec:
    """Return the spec of one checkpoint of a built-in model's training, or of all of them.

    Args:
        text: the whole spec as given.
        name: the built-in model.
        selection: what stands after the '@'.

    Raises:
        SpecError: there are no checkpoints of this model, or not those that were asked for.
    """
    names = _builtin_steps(name)
    if not names:
        raise SpecError(
            f"the built-in model {name!r} has one state only: no checkpoints of its training are "
            "shipped; leave '@...' out"
        )
    chosen = _choose(names, selection, f"the training of {name!r}")
    if is_series(selection):
        return ModelSpec(text, "builtin", name, series=selection)
    return ModelSpec(text, "builtin", name, str(*chosen))


def find_steps(spec: ModelSpec) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that a series consists of, by ascending step.

    A hub is asked for its branches and tags.

    Args:
        spec: a spec with `series`.

    Raises:
        SpecError: there are fewer than two, two of one step, or one that was named is missing.
    """
    assert spec.series is not None
    base, target = spec.text.rpartition("@")[0], spec.target
    if spec.kind == "builtin":
        names, place = _builtin_steps(target), f"the training of {target!r}"
    elif spec.kind == "hub":
        from icl_bench.models.sources.hub import list_revisions

        steps = {name: step_of(name) for name in list_revisions(target)}
        names = {name: step for name, step in steps.items() if step is not None}
        place = f"repository {target!r}"
    else:
        if not os.path.isdir(target):
            raise SpecError(f"there is no folder {target!r}")
        names, place = _steps_in(Path(target)), f"folder {base!r}"
    if not names:
        what = "branches and tags" if spec.kind == "hub" else "sub-folders"
        raise SpecError(f"{place} holds no checkpoints: looked for {what} with {LOOKED_FOR}")
    chosen = _choose(names, spec.series, place, hub=spec.kind == "hub")
    if len(chosen) < 2:
        raise SpecError(
            f"a series needs two checkpoints or more, and {place} has one that fits: "
            f"{', '.join(chosen.values())}"
        )
    return tuple(
        Checkpoint(step, _spec_of(spec, base, name)) for step, name in sorted(chosen.items())
    )


def read_training_loss(spec: ModelSpec, checkpoints: Iterable[Checkpoint]) -> Mapping[int, float]:
    """Return step -> training loss in nats as it was recorded; empty where none was.

    Of folders, what transformers' Trainer has written into the last checkpoint that has it.

    Args:
        spec: a spec with `series`.
        checkpoints: its checkpoints.
    """
    if spec.kind == "builtin":
        losses = importlib.import_module("icl_bench.reference").training_losses(spec.target)
        return {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    if spec.kind == "folder":
        from icl_bench.models.sources.folder import read_json

        for checkpoint in sorted(checkpoints, key=lambda one: -one.step):
            try:
                content = read_json(Path(checkpoint.spec.target, TRAINER_STATE))
            except SpecError:
                continue
            if losses := _losses_of(content):
                return losses
    return {}


def _losses_of(state: Any) -> dict[int, float]:
    history = state.get("log_history") if isinstance(state, dict) else None
    losses = {}
    for entry in history if isinstance(history, list) else []:
        step = entry.get("step") if isinstance(entry, dict) else None
        loss = entry.get("loss") if isinstance(entry, dict) else None
        if isinstance(step, int) and isinstance(loss, (int, float)) and math.isfinite(loss):
            losses[step] = float(loss)
    return dict(sorted(losses.items()))


def _spec_of(series: ModelSpec, base: str, name: str) -> ModelSpec:
    target = os.path.join(series.target, name) if series.kind == "folder" else series.target
    return ModelSpec(f"{base}@{name}", series.kind, target, name)


def _builtin_steps(name: str) -> dict[str, int]:
    steps = importlib.import_module("icl_bench.reference").series_steps(name)
    return {str(step): step for step in steps}


def _steps_in(folder: Path) -> dict[str, int]:
    """Name -> step of the checkpoints in a folder."""
    try:
        with os.scandir(folder) as entries:
            names = {
                entry.name: step
                for entry in entries
                if not entry.name.startswith(".")
                and (step := step_of(entry.name)) is not None
                and entry.is_dir()
            }
    except OSError as error:
        raise SpecError(f"{str(folder)!r} cannot be listed ({error.strerror or error})") from None
    # Beside checkpoints there may be others that end in a number, `logs-2024`. A checkpoint that
    # has lost its files is told from them by its name.
    kinds = {_kind_of(name) for name in names if _holds_checkpoint(folder / name)}
    return {name: step for name, step in names.items() if _kind_of(name) in kinds}


def _kind_of(name: str) -> str:
    return re.sub(r"[0-9]+", "", name)


def _holds_checkpoint(folder: Path) -> bool:
    try:
        files = os.listdir(folder)
    except OSError:
        return False
    return "config.json" in files or any(name.endswith(_PARTS_OF_CHECKPOINT) for name in files)


def _choose(
    names: Mapping[str, int], selection: str, place: str, *, hub: bool = False
) -> dict[int, str]:
    """Step -> name of the checkpoints that a selection names."""
    chosen: dict[int, str] = {}
    for part in selection.split(","):
        part = part.strip()
        if part == "*":
            found = _of_one_kind(names, place, hub)
        elif "*" in part:
            found = [name for name in names if fnmatch.fnmatchcase(name, part)]
        else:
            found = [name for name in names if name == part]
            if not found and part.isdecimal():
                found = [name for name, step in names.items() if step == int(part)]
        if not found:
            raise SpecError(f"{place} has no checkpoint {part!r}; {_hint(part, names)}")
        for name in found:
            other = chosen.setdefault(names[name], name)
            if other != name:
                raise SpecError(
                    f"{place} has two checkpoints of step {names[name]}: {other} and {name}; name "
                    "those that are meant, by a list (@a,b) or a pattern (@a-*)"
                )
    return chosen


def _of_one_kind(names: Mapping[str, int], place: str, hub: bool) -> list[str]:
    """Names of one training run; on a hub those that say `step`, if some do, and not `fp16`.

    Raises:
        SpecError: they are of several kinds, and perhaps of several runs.
    """
    found = [name for name in names if hub and _STEP_INSIDE.search(name)] or list(names)
    kinds: dict[str, str] = {}
    for name in sorted(found):
        match = _STEP_INSIDE.search(name) or _STEP_AT_END.search(name)
        assert match is not None
        kinds.setdefault(_kind_of(name[: match.start(1)]), name)
    if len(kinds) > 1:
        shown = ", ".join(list(kinds.values())[:_SHOWN])
        raise SpecError(
            f"{place} has checkpoints of several kinds ({shown}); "
            "name those that are meant, by a list (@a,b) or a pattern (@a-*)"
        )
    return found


def _hint(part: str, names: Mapping[str, int]) -> str:
    if part.isdecimal():
        near = sorted(names, key=lambda name: (abs(names[name] - int(part)), names[name]))
        return f"nearest: {', '.join(sorted(near[:_SHOWN], key=names.__getitem__))}"
    return nearest(part, names)
