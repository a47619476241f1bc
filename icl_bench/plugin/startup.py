"""What pytest's command line asks for, checked as a whole before anything is measured."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from icl_bench.errors import InputError, ModelError
from icl_bench.plugin import arguments
from icl_bench.plugin.ids import BEFORE, NAMES
from icl_bench.plugin.session import IclSession
from icl_bench.progress import RunProgress
from icl_bench.progress.bars import command_progress
from icl_bench.records.record import validate
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.running.job import Job
from icl_bench.running.request import Request
from icl_bench.running.termination import terminable


def open_session(config: pytest.Config) -> IclSession:
    """Check everything the user gave and return the run's state.

    Raises:
        pytest.UsageError: a mistake of the user's; pytest then exits with code 4.
    """
    try:
        return _open(config)
    except (InputError, ModelError) as error:
        raise pytest.UsageError(escape_ci_commands(str(error))) from None


def _open(config: pytest.Config) -> IclSession:
    def given(dest: str) -> Any:
        return config.getoption(f"icl_{dest}")

    with_paths = config.args_source is pytest.Config.ArgsSource.ARGS
    suites = arguments.choose_suites(config, with_paths)
    folder = config.invocation_params.dir
    request = Request.read(given, suites, prefix="--icl-", folder=folder)
    worker = getattr(config, "workerinput", None)
    # A worker calls models as the controller does, whatever has been written since.
    job = Job(request, worker[NAMES] if worker else None)
    arguments.settle_ids(config, job.specs)
    arguments.check_ids(config, suites, list(job.specs), job.parts)
    arguments.add_comparisons(config, job.parts)
    only_looks = arguments.only_tells(config)
    if worker is None:
        # The controller has checked what the workers are about to open.
        job.check(only_looks=only_looks)
    elif not only_looks:
        job.read_baseline(checked=True)
        if BEFORE in worker and job.baseline is not None:
            job.baseline.take(validate(json.loads(worker[BEFORE])))
    if job.specs and not only_looks:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        stack.enter_context(terminable())
        job.begin()
        stack.callback(job.end)
        if worker is None:
            job.measure_baseline(_progress_of(job))
    return IclSession(config, job, only_suites=not with_paths)


def _progress_of(job: Job) -> RunProgress:
    """Shows on standard error how the baseline is measured, before pytest's own lines."""
    return RunProgress() if job.before is None else command_progress(job.before.names)
