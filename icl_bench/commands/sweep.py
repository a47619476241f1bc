"""`icl-bench sweep`: every head switched off on its own."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icl_bench.commands import choices
from icl_bench.commands.parsing import (
    OK,
    add_color,
    add_command,
    add_options,
    completed_by,
    names_of,
)
from icl_bench.errors import IclError, SettingsError
from icl_bench.options import OPTIONS

DESCRIPTION = """\
Ablate every attention head on its own, on repeated random tokens, and list those whose ablation
harms copying most. Requires no suite and writes no report.

  icl-bench sweep builtin:induction-2l
  icl-bench sweep gpt2 --adaptive --top=20 --csv=heads.csv"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "sweep", "ablate every head on its own and list the effects", DESCRIPTION
    )
    model = parser.add_argument("model", metavar="SPEC", help=OPTIONS["model"].help)
    completed_by(model, choices.complete_models)
    parser.add_argument("--adaptive", action="store_true", help="measure most heads on few tokens")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="heads to list (default: 10)"
    )
    method = parser.add_argument(
        "--method", default="zero", help="ablation: zero (default), mean or resample"
    )
    completed_by(method, names_of("zero", "mean", "resample"))
    parser.add_argument("--sequences", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--period", type=int, default=50, metavar="N", help="default: 50")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--csv", metavar="FILE", help="write a row per head to FILE")
    add_options(parser, "device", "dtype")
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: the model or an option is wrong.
        IclError: what was measured is printed, but could not be written.
    """
    import icl_bench
    from icl_bench.progress.bars import command_progress
    from icl_bench.records.writing import write_atomically
    from icl_bench.render.ablations import effects_text
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.reports.places import check_file

    if given.top < 1:
        raise SettingsError(f"--top={given.top}: must be at least 1")
    if given.csv:
        check_file(given.csv, "--csv")
    progress = command_progress([given.model], given.color)
    with progress.opening(given.model, given.model):
        model = icl_bench.load_model(given.model, device=given.device, dtype=given.dtype)
    tokens = icl_bench.repeated_tokens(model, given.sequences, given.period, seed=given.seed)
    rows = len(model.every_head) * given.sequences
    with progress.task("every head on its own", rows) as advance:
        frame = icl_bench.ablation_sweep(
            model, tokens, given.method, not given.adaptive, top=given.top, advance=advance
        )
    # Heads that were only screened come after those that are known.
    best = frame.sort_values(["sequences", "delta"], ascending=False).head(given.top)
    print(effects_text(best.to_dict("records"), **outlet_of(sys.stdout, given.color).options()))
    if given.csv:
        try:
            write_atomically(given.csv, frame.to_csv(index=False))
        except OSError as error:
            raise IclError(
                f"--csv={given.csv}: cannot be written ({error.strerror or error})"
            ) from None
    return OK
