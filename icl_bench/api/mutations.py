"""The Python function that plants edits in a model and tells which of them suites notice."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.api.arguments import check_model, list_suites
from icl_bench.models.model import Model
from icl_bench.mutating.edits import choose_edits
from icl_bench.mutating.mutation import folder_of
from icl_bench.mutating.mutation import mutate as run_mutation
from icl_bench.mutating.outcome import COLUMNS
from icl_bench.mutating.report import write_mutation
from icl_bench.options import RunOptions
from icl_bench.progress.bars import chosen_progress
from icl_bench.running.job import Job
from icl_bench.running.request import Request
from icl_bench.suite import find_suite

if TYPE_CHECKING:
    import pandas as pd


def mutate(
    spec: str | os.PathLike[str] | Model,
    suites: Sequence[str | Path] = ("gate",),
    *,
    edits: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    seed: int | None = None,
    report_dir: str | Path | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Plant edits in a model one at a time, and tell which of them the suites notice.

    Weights are changed in place and put back to the last bit. An edit is killed where a check or
    the comparison with the unedited model got worse.

    Args:
        spec: an open model, or a spec.
        suites: names of shipped suites, or paths.
        edits: names of edits (`icl-bench mutate --list`); none for all that the family has.
        device: auto, cpu, cuda or cuda:N; of no effect on an open model, as the next two.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        seed: of the edits, and of the suites in place of their own.
        report_dir: folder that gets `mutate-MODEL/mutation.html`, `.md` and `.json`; None for none.
        cache: keep what was found, for an interrupted run to go on.
        cache_dir: folder for that; None for the default.
        trust_remote_code: run code that the model brings.
        allow_pickle: read weights that are stored as pickles.
        progress: whether progress is shown on standard error; None for a terminal only.

    Returns:
        one row for each edit and place: edit, place, change (changed, neutral or unclear), verdict
        (killed, survived, passed, false alarm, absent or not planted), killed_by, the changes of
        gain and text loss with their 95% intervals in nats, reason and seconds. `attrs` has the
        figures of all edits: changed, killed, kill_rate, neutral, false_alarms.

    Raises:
        InputError: the spec, a suite or an argument is wrong, or an edit that was named is not in
            the model's family.
        IclError: the unedited model cannot be measured.
        KeyboardInterrupt: it was interrupted; reports and cache hold what was found by then.
    """
    import pandas as pd

    names = list_suites(suites)
    chosen = choose_edits([edits] if isinstance(edits, str) else edits)
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
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
    request = Request(
        models=[spec if isinstance(spec, str) else check_model(spec)],
        suites=[find_suite(name) for name in names],
        options=options,
        report_dir=None if report_dir is None else str(report_dir),
        prefix="",
        tells_ci=False,
    )
    job = Job(request)
    job.check()
    watch = functools.partial(chosen_progress, progress)
    found = run_mutation(job, chosen, named=bool(edits), watch=watch)
    if request.reports is not None:
        write_mutation(found, folder_of(job))
    if found.left:
        raise KeyboardInterrupt
    frame = pd.DataFrame(found.rows(), columns=list(COLUMNS))
    frame.attrs.update({key: value for key, value in found.as_data().items() if key != "outcomes"})
    return frame
