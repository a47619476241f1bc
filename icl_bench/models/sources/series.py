"""Series of checkpoints: which steps a spec names, and where each of them is.

A series is one training run: a folder of checkpoints, a hub repository whose revisions are
checkpoints, or a built-in model whose training is shipped. Its source lists the checkpoints; each
step is an ordinary model spec.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from icl_bench.errors import SpecError, nearest
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.table import get_source

LOOKED_FOR = (
    "names that end in the step, such as checkpoint-500, step1000, global_step500 or iter_0005000"
)

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


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a training run, as its source lists them.

    Args:
        steps: name -> step; names may be sub-folders, branches or just numbers.
        place: where they are, for messages: "folder 'runs'".
        looked_for: what has names of checkpoints there.
        mixed: whether other things than checkpoints have names there too.
    """

    steps: Mapping[str, int]
    place: str
    looked_for: str = "sub-folders"
    mixed: bool = False


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
    match = _STEP_INSIDE.search(name) or _STEP_AT_END.search(name)
    return int(match[1]) if match else None


def find_steps(spec: ModelSpec) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that a series consists of, by ascending step.

    Args:
        spec: a spec with `series`.

    Raises:
        SpecError: there are fewer than two, two of one step, or one that was named is missing.
    """
    assert spec.series is not None
    base, source = spec.text.rpartition("@")[0], get_source(spec.kind)
    available = source.checkpoints(spec)
    if available is None:
        raise SpecError(f"{base!r} has no checkpoints; leave '@{spec.series}' out")
    place = available.place
    if not available.steps:
        raise SpecError(
            f"{place} holds no checkpoints: looked for {available.looked_for} with {LOOKED_FOR}"
        )
    chosen = choose(available, spec.series)
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

    Args:
        spec: a spec with `series`.
        checkpoints: its checkpoints.
    """
    return get_source(spec.kind).training_loss(spec, checkpoints)


def _spec_of(series: ModelSpec, base: str, name: str) -> ModelSpec:
    target = os.path.join(series.target, name) if series.is_local else series.target
    text = f"{base}@{name}"
    return replace(series, text=text, target=target, revision=name, series=None, name=None)


def find_sub_folders(folder: Path) -> dict[str, int]:
    """Return name -> step of the checkpoints in a folder.

    Args:
        folder: the folder.

    Raises:
        SpecError: it cannot be listed.
    """
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


def choose(available: Checkpoints, selection: str) -> dict[int, str]:
    """Return step -> name of the checkpoints that a selection names.

    Args:
        available: all that there are.
        selection: what stands after the '@' of a spec.

    Raises:
        SpecError: one that was named is missing, or two are of one step.
    """
    names, place = available.steps, available.place
    chosen: dict[int, str] = {}
    for part in selection.split(","):
        part = part.strip()
        if part == "*":
            named = _of_one_kind(available)
        elif "*" in part:
            named = [name for name in names if fnmatch.fnmatchcase(name, part)]
        else:
            named = [name for name in names if name == part]
            if not named and part.isdecimal():
                named = [name for name, step in names.items() if step == int(part)]
        if not named:
            raise SpecError(f"{place} has no checkpoint {part!r}; {_hint(part, names)}")
        for name in named:
            other = chosen.setdefault(names[name], name)
            if other != name:
                raise SpecError(
                    f"{place} has two checkpoints of step {names[name]}: {other} and {name}; name "
                    "those that are meant, by a list (@a,b) or a pattern (@a-*)"
                )
    return chosen


def _of_one_kind(available: Checkpoints) -> list[str]:
    """Names of one training run; among branches those that say `step`, if some do, not `fp16`.

    Raises:
        SpecError: they are of several kinds, and perhaps of several runs.
    """
    names, place = available.steps, available.place
    said = [name for name in names if available.mixed and _STEP_INSIDE.search(name)]
    candidates = said or list(names)
    kinds: dict[str, str] = {}
    for name in sorted(candidates):
        match = _STEP_INSIDE.search(name) or _STEP_AT_END.search(name)
        assert match is not None
        kinds.setdefault(_kind_of(name[: match.start(1)]), name)
    if len(kinds) > 1:
        shown = ", ".join(list(kinds.values())[:_SHOWN])
        raise SpecError(
            f"{place} has checkpoints of several kinds ({shown}); "
            "name those that are meant, by a list (@a,b) or a pattern (@a-*)"
        )
    return candidates


def _hint(part: str, names: Mapping[str, int]) -> str:
    if part.isdecimal():
        near = sorted(names, key=lambda name: (abs(names[name] - int(part)), names[name]))
        return f"nearest: {', '.join(sorted(near[:_SHOWN], key=names.__getitem__))}"
    return nearest(part, names)
