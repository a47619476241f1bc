"""The Python function that runs suites."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from icl_bench.api.arguments import check_model, list_suites
from icl_bench.errors import IclError, SettingsError
from icl_bench.models.model import Model
from icl_bench.options import RunOptions, read_size
from icl_bench.progress.bars import chosen_progress
from icl_bench.records.record import RunRecord
from icl_bench.running.cache import warn
from icl_bench.running.job import Job
from icl_bench.running.outcome import Outcome
from icl_bench.running.request import Request, read_jobs
from icl_bench.suite import find_suite


def run(
    suites: Sequence[str | Path],
    model: Model | str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    jobs: int = 1,
    seed: int | None = None,
    report_dir: str | Path | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    cache_limit: int | str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    baseline: str | Path | None = None,
    limit: Sequence[str] = (),
    require_paired: bool = False,
    progress: bool | None = None,
) -> RunRecord:
    """Run suites on a model and return the record.

    Args:
        suites: names of shipped suites, or paths.
        model: an open model, or a spec; `PATH@*` and its like are a series of checkpoints.
        device: auto, cpu, cuda, cuda:N, or split; of no effect on an open model, as the next two.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        jobs: processes that measure the checkpoints of a series, one at a time in each, with their
            shares of cores and GPUs.
        seed: overrides the suites' seeds.
        report_dir: folder for the reports, one folder to a model in it; None to write none.
        cache: keep measurements, and take from the cache what was measured before.
        cache_dir: folder for that; None for the default.
        cache_limit: bytes that measurements may take there, also as "500MB" or "2GiB"; at its end
            a run removes older ones beyond it, and none that it has used. None to go by the free
            disk space.
        trust_remote_code: run code that the model brings.
        allow_pickle: read weights that are stored as pickles.
        baseline: record to compare with, a .json file or a folder with a results.json, or the spec
            of a model, which is measured first; what was
            found is in `comparison` of the record that is returned. A regression does not raise,
            as a failed check does not: ask `record.comparison.passes()`.
        limit: METRIC=AMOUNT, changes for the worse that the baseline allows.
        require_paired: whether a metric fails the comparison that could be paired and is not.
        progress: whether progress is shown on standard error: as bars on a terminal, else as lines.
            None for a terminal only.

    Raises:
        InputError: a suite, the spec, the baseline or an argument is wrong.
        IclError: the reports could not be written.
        KeyboardInterrupt: it was interrupted; reports hold what was measured by then.
    """
    names = list_suites(suites)
    if model is None:
        raise SettingsError(
            "a model is required: run(suites, model), one that is open, or a spec such as "
            "'builtin:induction-2l'"
        )
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    subject = model if isinstance(model, str) else check_model(model)
    options = RunOptions(
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        cache=cache,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        cache_limit=None if cache_limit is None else read_size(str(cache_limit), "cache_limit"),
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    options.validate()
    request = Request(
        models=[subject],
        suites=[find_suite(name) for name in names],
        options=options,
        jobs=read_jobs(jobs, "jobs"),
        report_dir=None if report_dir is None else str(report_dir),
        baseline=None if baseline is None else str(baseline),
        limit=limit,
        require_paired=require_paired,
        prefix="",
        tells_ci=False,
    )
    job = Job(request)
    job.check()
    return _take_record(job.run(chosen_progress(progress, job.names, job.earlier_seconds())))


def _take_record(outcome: Outcome) -> RunRecord:
    """Return the one record of a run, or raise what kept it from being whole."""
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.removed:
        warn(outcome.removed)
    [record] = outcome.records
    troubles = list(outcome.troubles)
    if outcome.baseline is not None:
        record.__dict__["comparison"] = outcome.baseline.comparison
        troubles += filter(None, [outcome.baseline.trouble])
    if troubles:
        raise IclError("; ".join(troubles))
    return record
