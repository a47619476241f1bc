"""The source of built-in models: `builtin:NAME`, `builtin:NAME@STEP`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SpecError, nearest
from icl_bench.models.sources.file_identity import places_of
from icl_bench.models.sources.series import Checkpoint, Checkpoints, choose, is_series
from icl_bench.models.sources.source import Found, LoadedParts, Source
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions

if TYPE_CHECKING:
    import torch

PREFIX = "builtin:"


class Builtin(Source):
    """Models that this package carries; nothing of them has to be checked before the run."""

    def recognise(self, text: str) -> ModelSpec | None:
        from icl_bench.reference import NAMES, is_name

        if text == "builtin" and not os.path.isdir(text):
            raise SpecError(f"write builtin:NAME; valid names: {', '.join(sorted(NAMES))}")
        if not text.startswith(PREFIX):
            return None
        name, at, selection = text.removeprefix(PREFIX).partition("@")
        if not is_name(name):
            raise SpecError(f"there is no such built-in model; {nearest(name, NAMES)}")
        spec = ModelSpec(text, "builtin", name)
        if not at:
            return spec
        available = self.checkpoints(spec)
        if not available.steps:
            raise SpecError(
                f"the built-in model {name!r} has one state only: no checkpoints of its training "
                "are shipped; leave '@...' out"
            )
        chosen = choose(available, selection)
        if is_series(selection):
            return replace(spec, series=selection)
        return replace(spec, revision=str(*chosen))

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        return None

    def checkpoints(self, spec: ModelSpec) -> Checkpoints:
        from icl_bench.reference import series_steps

        steps = {str(step): step for step in series_steps(spec.target)}
        return Checkpoints(steps, f"the training of {spec.target!r}")

    def training_loss(
        self, spec: ModelSpec, checkpoints: Iterable[Checkpoint]
    ) -> Mapping[int, float]:
        from icl_bench.reference import training_losses

        losses = training_losses(spec.target)
        return {step: loss for step, loss in losses.items() if math.isfinite(loss)}

    def identity(self, spec: ModelSpec, options: RunOptions, found: Found | None) -> Any | None:
        from icl_bench.reference import WEIGHTS

        folder = WEIGHTS / spec.target
        shipped = places_of(folder.iterdir()) if folder.is_dir() else None
        return [spec.target, spec.revision, shipped]

    def open(
        self,
        spec: ModelSpec,
        options: RunOptions,
        dtype: torch.dtype | None,
        found: Found | None,
    ) -> LoadedParts:
        from icl_bench.reference import load

        return LoadedParts(
            *load(spec.target, None if spec.revision is None else int(spec.revision))
        )


SOURCE = Builtin()
