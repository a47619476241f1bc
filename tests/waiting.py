"""Processes that tests start, and facts that tests wait for; no time decides what comes out.

`HANG` is there for what never comes: it bounds how long a broken program keeps a test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LEAVE = """
import torch.distributed
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""
"""The end of a script of several processes: one that exits while connected may abort another."""

HANG = 900.0
"""Seconds after which a test gives up; many times what the slowest machine needs."""


def start(command: Sequence[str], folder: Path, **more: Any) -> subprocess.Popen[str]:
    """Start a program in a process group of its own.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        more: for `subprocess.Popen`; by default output and errors come together.
    """
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        # Tests may run where the shell ignores Ctrl-C; what they start must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{**given, **more},
    )


def run_in_two(script: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Run a script in two processes that torch connects, and return what they say.

    If they fail, the test fails with it.

    Args:
        script: its text; the tests' own files can be imported.
        folder: where it is written.
        arguments: of the script.
        variables: of its environment.
    """
    file, here = folder / "script.py", Path(__file__).parent
    file.write_text(script + LEAVE)
    known = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=2", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "PYTHONPATH": known, "OMP_NUM_THREADS": "1", **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def wait_until(fact: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    """Wait until something is so; fail if a process ends before.

    Args:
        fact: true as soon as it is so.
        processes: those that are to bring it about.
    """
    started = time.monotonic()
    while not fact():
        ended = [process.communicate() for process in processes if process.poll() is not None]
        assert not ended, f"ended too early: {ended}"
        assert time.monotonic() - started < HANG, "it never came"
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait until a process ends, and return its output and errors."""
    try:
        out, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    return (out or "") + (err or "")
