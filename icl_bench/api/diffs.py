"""The Python function that compares two models and says what explains the difference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from icl_bench.api.arguments import list_suites
from icl_bench.diffing.difference import Diff
from icl_bench.diffing.measuring import Rules, check_rules, diff_sides
from icl_bench.diffing.sides import read_sides
from icl_bench.errors import SettingsError
from icl_bench.models.model import Model
from icl_bench.options import RunOptions, check_choice
from icl_bench.progress.bars import chosen_progress
from icl_bench.records.record import RunRecord
from icl_bench.reports.diffs import write_diffs
from icl_bench.reports.places import check_report_dir

Given = str | os.PathLike[str] | Model | RunRecord


def diff(
    a: Given,
    b: Given,
    suites: Sequence[str | Path] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    seed: int | None = None,
    report_dir: str | Path | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    limit: Sequence[str] = (),
    inconclusive: str = "fail",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: bool | None = None,
) -> Diff:
    """Compare two models: what is worse in B, which heads changed, and what explains it.

    What is missing is measured, one model in memory at a time unless both are open. If B's copying
    or its loss on text is worse and both are models of one shape, layers and heads of B are
    restored from A one by one.

    Args:
        a: the model before: a spec, an open model, a record, or the path of one.
        b: the model after, likewise.
        suites: names of shipped suites, or paths; None for `gate`.
        device: auto, cpu, cuda, cuda:N, or split; of no effect on open models, as the next two.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        seed: overrides the suites' seeds.
        report_dir: folder that gets `diff-A-B/diff.html`, `.md` and `.json`; None to write none.
        cache: keep measurements, and take from the cache what was measured before.
        cache_dir: folder for that; None for the default.
        limit: METRIC=AMOUNT, changes for the worse that are allowed.
        inconclusive: `fail` or `warn`: whether what cannot be told counts as worse.
        trust_remote_code: run code that a model brings.
        allow_pickle: read weights that are stored as pickles.
        progress: whether progress is shown on standard error; None for a terminal only.

    Raises:
        InputError: a model, a record, a suite or an argument is wrong, or nothing can be compared.
        ModelError: a model cannot be opened or run.
    """
    for one, name in ((a, "a"), (b, "b")):
        if not isinstance(one, (str, os.PathLike, Model, RunRecord)):
            kind = type(one).__name__
            raise SettingsError(
                f"{name} is {kind}; expected a spec, an open model (icl_bench.wrap) or a record"
            )
    names = None if suites is None else list_suites(suites, 'diff(a, b, ["gate"])')
    folder = None if report_dir is None else check_report_dir(os.fspath(report_dir), "report_dir")
    options = RunOptions(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        cache=cache,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    options.validate()
    rules = Rules.read(limit, check_choice("inconclusive", inconclusive, ""))
    where = None if report_dir is None else os.fspath(report_dir)
    sides = read_sides([a, b], names, options, report_dir=where, prefix="")
    check_rules(rules, sides)
    called = [side.name for side in sides if side.job is not None]
    [found] = diff_sides(sides, rules, chosen_progress(progress, called))
    if folder is not None:
        write_diffs([found], folder)
    return found
