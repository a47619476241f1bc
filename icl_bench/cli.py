"""The `icl-bench` command.

Exit codes: 0 ok, 1 a check failed, 2 interrupted, 3 a fault of this program, 4 wrong usage.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from icl_bench import __version__, compare_command, leaderboard_command
from icl_bench.errors import IclError, InputError, SettingsError

OK, FAILED, INTERRUPTED, INTERNAL, USAGE = range(5)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"icl-bench: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the command line without the program's name; None for the process's own.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model's name may hold characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="replace")
    parser = _make_parser()
    given = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] | None = getattr(given, "command", None)
    if command is None:
        parser.print_help()
        return USAGE
    try:
        code = command(given)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"icl-bench: {error}", file=sys.stderr)
        return USAGE
    except IclError as error:
        print(f"icl-bench: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("icl-bench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception:
        traceback.print_exc()
        print("icl-bench: this is a fault of icl_bench, please report it", file=sys.stderr)
        return INTERNAL


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="icl-bench",
        description="Test whether a language model has the circuits of in-context learning. "
        "The tests themselves run under pytest: pytest --icl-model=SPEC",
    )
    parser.add_argument("--version", action="version", version=f"icl-bench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser("run", help="run suites on a model, without pytest")
    run.add_argument("model", metavar="SPEC", nargs="+", help="as --icl-model of the plugin")
    run.add_argument("--suite", action="append", metavar="NAME|PATH", help="default: core")
    run.add_argument("--report-dir", metavar="DIR", default="reports", help="default: reports/")
    run.add_argument("--seed", type=int, metavar="N", help="overrides the suites' seeds")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, split (over all)")
    run.add_argument("--dtype", default="auto")
    run.add_argument("--batch-size", type=int, metavar="N")
    run.add_argument("--cache-dir", metavar="DIR", help="as --icl-cache-dir of the plugin")
    run.add_argument("--no-cache", action="store_true", help="measure anew, keep nothing of it")
    run.add_argument("--inconclusive", choices=("fail", "warn"), default="fail")
    run.add_argument("--trust-remote-code", action="store_true")
    run.add_argument("--allow-pickle", action="store_true")
    compare_command.add_color(run)
    run.set_defaults(command=_run)

    sweep = commands.add_parser(
        "sweep", help="switch every head off on its own and list what that does"
    )
    sweep.add_argument("model", metavar="SPEC", help="as --icl-model of the plugin")
    sweep.add_argument("--adaptive", action="store_true", help="few tokens for most heads")
    sweep.add_argument("--top", type=int, default=10, metavar="N", help="default: 10")
    sweep.add_argument("--method", default="zero", help="zero (default), mean or resample")
    sweep.add_argument("--sequences", type=int, default=8, metavar="N", help="default: 8")
    sweep.add_argument("--period", type=int, default=50, metavar="N", help="default: 50")
    sweep.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    sweep.add_argument("--csv", metavar="FILE", help="write every head's row there")
    sweep.add_argument("--device", default="auto")
    sweep.add_argument("--dtype", default="auto")
    compare_command.add_color(sweep)
    sweep.set_defaults(command=_sweep)

    compare_command.add_parser(commands)
    leaderboard_command.add_parser(commands)

    validate = commands.add_parser("validate", help="check suite files without running them")
    validate.add_argument("files", metavar="FILE", nargs="+")
    validate.set_defaults(command=_validate)

    schema = commands.add_parser("schema", help="print the JSON Schema of suite files")
    schema.set_defaults(command=_schema)

    listing = commands.add_parser("list", help="list shipped suites, built-in models and probes")
    listing.set_defaults(command=_list)

    train = commands.add_parser(
        "train-reference", help="train the built-in models anew (minutes on 2 cores)"
    )
    train.add_argument(
        "output",
        metavar="DIR",
        nargs="?",
        default="reference-models",
        help="folder for weights, configs and tokenizer (default: reference-models/)",
    )
    train.add_argument("--seed", type=int, default=0, metavar="N")
    train.add_argument("--steps", type=int, default=2000, metavar="N", help="default: 2000")
    train.add_argument(
        "--save-series",
        action="store_true",
        help="keep checkpoints on the way: DIR/MODEL/step-N, and all of them packed as shipped",
    )
    train.set_defaults(command=_train)
    return parser


def _run(given: argparse.Namespace) -> int:
    from icl_bench.arguments import check_report_dir
    from icl_bench.cache import open_cache
    from icl_bench.models.loading import check_device, check_dtype
    from icl_bench.models.spec import check_spec, parse_spec, slugs
    from icl_bench.options import RunOptions
    from icl_bench.plan import make_plan
    from icl_bench.progress.bars import command_progress
    from icl_bench.progress.earlier import earlier_seconds
    from icl_bench.record import RunRecord
    from icl_bench.render.files import write_reports
    from icl_bench.render.outlet import outlet_of
    from icl_bench.render.terminal import summary
    from icl_bench.results import counts_as_failure
    from icl_bench.series_run import start_run
    from icl_bench.suite import find_suite

    options = RunOptions(
        device=given.device,
        dtype=given.dtype,
        batch_size=given.batch_size,
        seed=given.seed,
        cache_dir=Path(given.cache_dir) if given.cache_dir else None,
        trust_remote_code=given.trust_remote_code,
        allow_pickle=given.allow_pickle,
        cache=not given.no_cache,
    )
    options.validate()
    check_device(given.device)
    check_dtype(given.dtype)
    plan = make_plan([find_suite(name) for name in given.suite or ["core"]], seed=given.seed)
    specs = [parse_spec(text) for text in dict.fromkeys(given.model)]
    found = [check_spec(spec, allow_pickle=given.allow_pickle) for spec in specs]
    check_report_dir(Path(given.report_dir), "--report-dir")
    records: list[RunRecord] = []
    paths: list[Path] = []
    code = OK
    cache = open_cache(options)
    names = slugs(specs)
    progress = command_progress(names, given.color, earlier_seconds(plan, Path(given.report_dir)))
    for spec, slug, place in zip(specs, names, found):
        run = start_run(spec, slug, plan, options, place, progress=progress, cache=cache)
        steps = len(place) if isinstance(place, tuple) else 0
        progress.announce(slug, run.to_measure(), steps)
        try:
            records.append(run.run())
        except KeyboardInterrupt:
            code = INTERRUPTED
            if not run.results.measurements:
                break
            records.append(run.record(interrupted=True))
        run.close()
        paths += write_reports(records[-1:], given.report_dir)
        if code == INTERRUPTED:
            break
    if code == INTERRUPTED:
        print("icl-bench: interrupted", file=sys.stderr)
    if len(records) > 1:
        paths += leaderboard_command.update_leaderboard(given.report_dir)
    print(summary(records, **outlet_of(sys.stdout, given.color).options(), paths=paths))
    if code == OK and any(counts_as_failure(r, given.inconclusive == "fail") for r in records):
        code = FAILED
    return code


def _sweep(given: argparse.Namespace) -> int:
    import icl_bench
    from icl_bench.progress.bars import command_progress
    from icl_bench.record import write_atomically
    from icl_bench.render.outlet import outlet_of
    from icl_bench.render.sweeps import effects_text

    if given.top < 1:
        raise SettingsError(f"--top={given.top}: must be at least 1")
    progress = command_progress([given.model], given.color)
    with progress.opening(given.model, given.model):
        model = icl_bench.load_model(given.model, device=given.device, dtype=given.dtype)
    tokens = icl_bench.repeated_tokens(model, given.sequences, given.period, seed=given.seed)
    rows = len(model.every_head) * given.sequences
    with progress.task("every head on its own", rows) as advance:
        frame = icl_bench.ablation_sweep(
            model, tokens, given.method, not given.adaptive, top=given.top, advance=advance
        )
    if given.csv:
        write_atomically(given.csv, frame.to_csv(index=False))
    # Heads that were only screened come after those that are known.
    best = frame.sort_values(["sequences", "delta"], ascending=False).head(given.top)
    print(effects_text(best.to_dict("records"), **outlet_of(sys.stdout, given.color).options()))
    return OK


def _validate(given: argparse.Namespace) -> int:
    from icl_bench.suite import load_suite

    code = OK
    for file in given.files:
        try:
            suite = load_suite(file)
        except InputError as error:
            print(error, file=sys.stderr)
            code = USAGE
        else:
            counts = (len(suite.measure), len(suite.checks), len(suite.quiz))
            print(
                f"{file}: ok: suite {suite.name!r}, {counts[0]} measurements, "
                f"{counts[1]} checks, {counts[2]} quiz items"
            )
    return code


def _schema(given: argparse.Namespace) -> int:
    from icl_bench.suite import json_schema

    print(json.dumps(json_schema(), indent=2))
    return OK


def _list(given: argparse.Namespace) -> int:
    from icl_bench.probes import PROBES, get_probe
    from icl_bench.reference import DESCRIPTIONS
    from icl_bench.suite import load_suite, shipped_suites

    print("suites (--icl-suite=NAME):")
    for name, path in shipped_suites().items():
        print(f"  {name:14} {load_suite(path).description or ''}")
    print("built-in models (--icl-model=builtin:NAME):")
    for name, text in DESCRIPTIONS.items():
        print(f"  {name:14} {text}")
    print("probes and their metrics:")
    for name in PROBES:
        print(f"  {name}")
        for metric, info in get_probe(name).metrics.items():
            unit = f" [{info.unit}]" if info.unit else ""
            print(f"    {metric:24} {info.meaning}{unit}")
    return OK


def _train(given: argparse.Namespace) -> int:
    from icl_bench.arguments import check_report_dir

    if given.steps < 1 or given.seed < 0:
        raise SettingsError("train-reference: --steps must be at least 1, --seed at least 0")
    check_report_dir(Path(given.output), "DIR")
    import torch

    from icl_bench.reference.training import train_reference

    def show(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # The order of sums depends on the number of threads, and the weights on that order.
    torch.set_num_threads(1)
    summary = train_reference(
        Path(given.output),
        seed=given.seed,
        progress=show,
        steps=given.steps,
        save_series=given.save_series,
    )
    print(json.dumps(summary, indent=1))
    return OK


if __name__ == "__main__":
    sys.exit(main())
