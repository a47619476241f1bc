"""`icl-bench run`: suites on models, without pytest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.commands import choices
from icl_bench.commands.parsing import (
    FAILED,
    INTERRUPTED,
    OK,
    add_cache,
    add_color,
    add_command,
    add_plotly,
    completed_by,
    names_of,
    one_of,
)
from icl_bench.errors import IclError
from icl_bench.render.writing.logs import defuse

if TYPE_CHECKING:
    from icl_bench.options import RunOptions
    from icl_bench.records.record import RunRecord
    from icl_bench.running.baseline import Baseline
    from icl_bench.running.cache import Cache
    from icl_bench.suite.plan import Plan

DESCRIPTION = """\
Measure models, judge the checks of suites on them, print a summary and write reports. What pytest
does with --icl-model, without pytest; options mean the same. Progress goes to standard error.

  icl-bench run builtin:induction-2l
  icl-bench run ./changed --suite=gate --baseline=good.json --limit='repeated_loss=5%'

With --baseline the run is compared with an earlier one and fails where something got worse;
--save-baseline writes one. On GitHub (GITHUB_ACTIONS=true) failed checks are annotated at their
line and a summary is put into the job's page."""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(commands, "run", "run suites on a model, without pytest", DESCRIPTION)
    add = parser.add_argument
    model = add("model", metavar="SPEC", nargs="+", help=choices.SPEC_HELP)
    completed_by(model, choices.complete_models)
    suite = add(
        "--suite",
        action="append",
        metavar="NAME|PATH",
        help="shipped suite or file, repeatable (default: core; see icl-bench list suites)",
    )
    completed_by(suite, choices.complete_suites)
    add("--report-dir", metavar="DIR", default="reports", help="default: reports/")
    add(
        "--baseline",
        metavar="FILE",
        help="record to compare this run with; what got worse fails the run (one model)",
    )
    add("--save-baseline", metavar="FILE", help="write this run there, as a baseline")
    add(
        "--limit",
        action="append",
        metavar="METRIC=AMOUNT",
        help="change for the worse that the baseline allows: a number, N%%, or noise (default)",
    )
    add("--code-quality", metavar="FILE", help="write GitLab's Code Quality report there")
    add("--openmetrics", metavar="FILE", help="write every checked metric there, for GitLab")
    add("--seed", type=int, metavar="N", help="overrides the suites' seeds")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N, split (over all)")
    add("--dtype", default="auto", help="auto (default), float32, bfloat16, float16")
    add("--batch-size", type=int, metavar="N", help="rows per forward pass")
    doubt = add(
        "--inconclusive",
        metavar="fail|warn",
        type=one_of("fail", "warn"),
        default="fail",
        help="what to do when an interval reaches across a threshold (default: fail)",
    )
    completed_by(doubt, names_of("fail", "warn"))
    add_cache(parser)
    add("--no-cache", action="store_true", help="measure anew, keep nothing of it")
    add("--trust-remote-code", action="store_true", help="run code that a model brings")
    add("--allow-pickle", action="store_true", help="read weights stored as pickles")
    add_plotly(parser)
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a model, a suite or an option is wrong; nothing was measured.
    """
    from icl_bench.models.opening.loading import check_device, check_dtype
    from icl_bench.options import RunOptions, read_size
    from icl_bench.reports.added import added_reports
    from icl_bench.reports.places import check_file, check_report_dir
    from icl_bench.running.baseline import read_baseline
    from icl_bench.running.cache import open_cache
    from icl_bench.suite import find_suite
    from icl_bench.suite.plan import make_plan

    limit = given.cache_limit
    options = RunOptions(
        device=given.device,
        dtype=given.dtype,
        batch_size=given.batch_size,
        seed=given.seed,
        cache_dir=Path(given.cache_dir) if given.cache_dir else None,
        trust_remote_code=given.trust_remote_code,
        allow_pickle=given.allow_pickle,
        cache=not given.no_cache,
        cache_limit=None if limit is None else read_size(limit, "--cache-limit"),
    )
    options.validate()
    check_device(given.device)
    check_dtype(given.dtype)
    names = dict.fromkeys(given.suite or ["core"])
    plan = make_plan([find_suite(name) for name in names], seed=given.seed)
    given.model = list(dict.fromkeys(given.model))
    strict = given.inconclusive == "fail"
    baseline = read_baseline(
        given.baseline,
        given.save_baseline,
        given.limit or [],
        suites=plan.suites,
        models=len(given.model),
        strict=strict,
        folder=Path(),
        prefix="--",
        deselected=False,
    )
    for option, file in (("code-quality", given.code_quality), ("openmetrics", given.openmetrics)):
        if file:
            check_file(file, f"--{option}")
    check_report_dir(given.report_dir, "--report-dir")
    added_reports()
    cache = open_cache(options)
    troubles: list[str] = []
    try:
        records, paths, interrupted = _measure(given, plan, options, cache, troubles)
        removed = cache.trim() if cache else None
    finally:
        if cache:
            cache.end()
    code = _tell(given, plan, records, paths, baseline, strict=strict, interrupted=interrupted)
    for trouble in troubles:
        print(defuse(f"icl-bench: {trouble}"), file=sys.stderr)
        code = code or FAILED
    if removed:
        print(defuse(removed.describe("--cache-limit")))
    return code


def _measure(
    given: argparse.Namespace,
    plan: Plan,
    options: RunOptions,
    cache: Cache | None,
    troubles: list[str],
) -> tuple[list[RunRecord], list[Path], bool]:
    """Measure every model and write its reports; also whether that was interrupted."""
    from icl_bench.models.sources.checking import check_spec
    from icl_bench.models.sources.parsing import parse_spec
    from icl_bench.naming import name_models, tell_names
    from icl_bench.progress.bars import command_progress
    from icl_bench.reports.files import write_reports
    from icl_bench.running.earlier import earlier_seconds
    from icl_bench.running.series_run import start_run

    parsed = [parse_spec(text) for text in given.model]
    specs = dict(zip(name_models(parsed, given.report_dir), parsed))
    found = [check_spec(spec, allow_pickle=given.allow_pickle) for spec in specs.values()]
    for line in tell_names(specs, given.report_dir):
        print(defuse(line), file=sys.stderr)
    records: list[RunRecord] = []
    paths: list[Path] = []
    if cache:
        cache.begin()
    progress = command_progress(
        list(specs), given.color, earlier_seconds(plan, Path(given.report_dir))
    )
    for (slug, spec), place in zip(specs.items(), found):
        interrupted = False
        run = start_run(spec, slug, plan, options, place, progress=progress, cache=cache)
        progress.announce(slug, run.to_measure(), len(place) if isinstance(place, tuple) else 0)
        try:
            records.append(run.run())
        except KeyboardInterrupt:
            interrupted = True
            if not run.results.measurements:
                return records, paths, True
            records.append(run.record(interrupted=True))
        run.close()
        paths += write_reports(records[-1:], given.report_dir, given.plotly, troubles)
        if interrupted:
            return records, paths, True
    return records, paths, False


def _tell(
    given: argparse.Namespace,
    plan: Plan,
    records: list[RunRecord],
    paths: list[Path],
    baseline: Baseline | None,
    *,
    strict: bool,
    interrupted: bool,
) -> int:
    """Print what came out, compare, tell CI; return the exit code."""
    from icl_bench.ci.publishing import publish
    from icl_bench.render.terminal import summary
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.reports.leaderboard import update_leaderboard
    from icl_bench.running.results import counts_as_failure, explain_undecided

    code = FAILED if any(counts_as_failure(record, strict) for record in records) else OK
    if interrupted:
        print("icl-bench: interrupted", file=sys.stderr)
    if len(records) > 1:
        try:
            paths = [*paths, *update_leaderboard(given.report_dir, given.plotly)]
        except IclError as error:  # what was measured is told all the same
            print(defuse(f"icl-bench: {error}"), file=sys.stderr)
            code = FAILED
    outlet = outlet_of(sys.stdout, given.color)
    print(defuse(summary(records, **outlet.options(), paths=paths)))
    outcomes = [(check.verdict, check.reason) for record in records for check in record.checks]
    if not interrupted and (undecided := explain_undecided(outcomes)):
        print(defuse(f"icl-bench: {undecided}"), file=sys.stderr)
        code = FAILED
    if baseline is not None:
        if not baseline.judge(records, paths[0].parent if paths else None):
            code = FAILED
        print("", *baseline.texts(outlet), sep="\n")
        if baseline.trouble:
            print(defuse(f"icl-bench: {baseline.trouble}"), file=sys.stderr)
    published = publish(
        records,
        baseline.comparison if baseline else None,
        suites=plan.suites,
        strict=strict,
        code_quality=Path(given.code_quality) if given.code_quality else None,
        openmetrics=Path(given.openmetrics) if given.openmetrics else None,
    )
    for line in published.commands:
        print(line)
    for trouble in published.troubles:
        print(defuse(f"icl-bench: {trouble}"), file=sys.stderr)
        code = FAILED
    return INTERRUPTED if interrupted else code
