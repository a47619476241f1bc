"""The source of models on a hub: `NAME`, `ORG/NAME@REVISION`, or `ORG/NAME@*`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SpecError
from icl_bench.models.sources.file_identity import borrows_code
from icl_bench.models.sources.hub import HubModel, download_weights, find_on_hub, list_revisions
from icl_bench.models.sources.pretrained import load_pretrained
from icl_bench.models.sources.series import Checkpoints, is_series, step_of
from icl_bench.models.sources.source import Found, LoadedParts, Source
from icl_bench.models.sources.spec import FORMS, HUB_ID, ModelSpec, suggest_local
from icl_bench.models.sources.stored import Stored
from icl_bench.options import RunOptions

if TYPE_CHECKING:
    import torch


class Hub(Source):
    """Repositories of a model hub, by id and revision."""

    remote = True

    def recognise(self, text: str) -> ModelSpec | None:
        repo, at, revision = text.partition("@")
        if at and (not revision or re.search(r"\s|\.\.|[~^:?\[\\]", revision)):
            raise SpecError(
                f"{revision!r} after the '@' is not a revision; give a branch, tag or commit"
            )
        if repo.count("/") > 1:
            raise SpecError(
                "there is no such folder here, and a hub id is NAME or "
                f"ORG/NAME{suggest_local(text)}"
            )
        if not HUB_ID.fullmatch(repo) or re.search(r"--|\.\.|[.-]$|\.git$", repo) or len(repo) > 96:
            raise SpecError(
                f"not a hub id, and no such file or folder; {FORMS}{suggest_local(text)}"
            )
        if is_series(revision):
            return ModelSpec(text, "hub", repo, series=revision)
        return ModelSpec(text, "hub", repo, revision if at else None)

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> HubModel:
        return find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)

    def checkpoints(self, spec: ModelSpec) -> Checkpoints:
        steps = {name: step_of(name) for name in list_revisions(spec.target)}
        return Checkpoints(
            {name: step for name, step in steps.items() if step is not None},
            f"repository {spec.target!r}",
            looked_for="branches and tags",
            mixed=True,
        )

    def identity(self, spec: ModelSpec, options: RunOptions, found: Found | None) -> Any | None:
        if not isinstance(found, HubModel):
            return None
        if options.trust_remote_code and (found.folder is None or borrows_code(found.folder)):
            return None
        return [spec.target, found.commit]

    def open(
        self,
        spec: ModelSpec,
        options: RunOptions,
        dtype: torch.dtype | None,
        found: Found | None,
    ) -> LoadedParts:
        assert isinstance(found, HubModel)
        return load_pretrained(
            spec.target, options, dtype, commit=found.commit, cached=found.cached
        )

    def pour(self, spec: ModelSpec, found: Found | None) -> Stored | None:
        assert isinstance(found, HubModel)
        folder = download_weights(spec.target, found)
        return Stored(folder, spec.target, found.commit, found.cached)


SOURCE = Hub()
