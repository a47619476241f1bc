"""Timing side by side: every contender once a round, medians of the rounds' ratios.

A ratio of two times taken one after the other says more than either: the machine was as busy
and as warm for both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Work = Callable[[], object]


def clock(work: Work) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time every work once a round, in turn, after one round that does not count.

    Args:
        works: name -> what to time.
        rounds: rounds that count.

    Returns:
        name -> seconds of each round.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(clock(work))
    return times


def ratio(over: list[float], under: list[float]) -> str:
    """Return the median of the rounds' ratios and their range, as text.

    Args:
        over: seconds of each round.
        under: seconds of the same rounds.
    """
    found = sorted(a / b for a, b in zip(over, under))
    middle = statistics.median(found)
    return f"{middle:.2f} ({found[0]:.2f}-{found[-1]:.2f})" if len(found) > 1 else f"{middle:.2f}"


def free_bytes() -> int:
    """Return the memory that can still be taken."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo names no MemAvailable")


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; rows printed later join it."""
    return "\n".join(row(*line) for line in [header, ["---"] * len(header), *rows])
