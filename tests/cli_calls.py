"""The command line, called in this process."""

from __future__ import annotations

import sys

from icl_bench.cli import main

COMMAND = [sys.executable, "-m", "icl_bench.cli"]


def call(*arguments: str) -> int:
    """Run the command in this process; argparse leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code
