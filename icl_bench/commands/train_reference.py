"""`icl-bench train-reference`: the built-in models trained anew."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from icl_bench.commands.parsing import OK, add_command
from icl_bench.errors import SettingsError

DESCRIPTION = """\
Retrain the built-in models. This takes minutes on one thread, so that weights are the same on
similar machines. The results are ordinary model folders for `icl-bench run DIR/induction-2l`.

  icl-bench train-reference
  icl-bench train-reference build/reference --seed=1 --save-series"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands,
        "train-reference",
        "train the built-in models anew (minutes on 2 cores)",
        DESCRIPTION,
    )
    parser.add_argument(
        "output",
        metavar="DIR",
        nargs="?",
        default="reference-models",
        help="folder for weights, configs and tokenizer (default: reference-models/)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument(
        "--save-series",
        action="store_true",
        help="also save checkpoints: DIR/MODEL/step-N, and all of them packed as shipped",
    )
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: an option is wrong, or the folder cannot be written.
    """
    from icl_bench.reports.places import check_report_dir

    if given.steps < 1 or given.seed < 0:
        raise SettingsError("train-reference: --steps must be at least 1, --seed at least 0")
    check_report_dir(given.output, "DIR")
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
