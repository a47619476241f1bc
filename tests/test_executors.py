"""Parts that other processes carry out, whatever becomes of those."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from icl_bench.executors.processes import LocalProcesses
from icl_bench.executors.protocol import Share


class Doubler:
    """Doubles numbers; texts tell it what to do instead."""

    def __init__(self, folder: Path, share: Share) -> None:
        self.folder, self.share = folder, share

    def carry_out(self, part: Any, tell: Callable[[Any], None]) -> None:
        if part == "raise":
            raise ValueError("no number")
        if part == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if part == "die once" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            tell("half")
            os._exit(3)
        if part == "wait":
            tell(os.getpid())
            time.sleep(600)
        if part == "who":
            tell((os.getpid(), self.share, os.environ.get("OMP_NUM_THREADS")))
            return
        tell(2 * part)

    def close(self) -> None:
        (self.folder / f"closed-{os.getpid()}").touch()


def broken(folder: Path, share: Share) -> Doubler:
    raise RuntimeError("nobody is hired")


def carry_out(
    folder: Path, parts: list[Any], jobs: int = 2, hire: Any = Doubler
) -> tuple[dict[int, list[Any]], dict[int, str]]:
    taken: dict[int, list[Any]] = {}
    lost: dict[int, str] = {}
    LocalProcesses(jobs).carry_out(
        partial(hire, folder),
        parts,
        lambda place, result: taken.setdefault(place, []).append(result),
        lambda place, why: lost.update({place: why}),
    )
    return taken, lost


def test_each_result_comes_back_at_the_place_of_its_part(tmp_path: Path) -> None:
    taken, lost = carry_out(tmp_path, list(range(7)), jobs=3)
    assert taken == {place: [2 * place] for place in range(7)} and lost == {}
    assert len(list(tmp_path.glob("closed-*"))) == 3


def test_there_are_no_more_processes_than_parts_and_each_has_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("icl_bench.executors.processes._cores", lambda: 9)
    taken, _ = carry_out(tmp_path, ["who", "who"], jobs=8)
    pids, shares, threads = zip(*(told for [told] in taken.values()))
    assert os.getpid() not in pids and set(threads) == {"4"}
    assert {share.workers for share in shares} == {2}


def test_a_part_that_raises_is_lost_with_the_reason_and_the_others_go_on(tmp_path: Path) -> None:
    taken, lost = carry_out(tmp_path, ["raise", 1, 2], jobs=1)
    assert taken == {1: [2], 2: [4]} and lost == {0: "ValueError: no number"}


def test_a_part_whose_process_died_is_begun_again(tmp_path: Path) -> None:
    taken, lost = carry_out(tmp_path, ["die once", 1, 2])
    assert taken == {0: ["half", "die oncedie once"], 1: [2], 2: [4]} and lost == {}


def test_a_part_that_kills_each_process_is_lost_after_three(tmp_path: Path) -> None:
    taken, lost = carry_out(tmp_path, ["die", 1, 2, 3])
    assert taken == {1: [2], 2: [4], 3: [6]}
    assert lost == {
        0: "the process that measured it was killed (SIGKILL, perhaps for memory), 3 times"
    }


def test_a_process_that_cannot_begin_loses_its_parts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    taken, lost = carry_out(tmp_path, [1], hire=broken)
    assert taken == {}
    assert lost == {0: "the process that measured it ended with exit code 1, 3 times"}
    assert "nobody is hired" in capfd.readouterr().err


def test_an_interruption_ends_every_process_and_keeps_what_was_told(tmp_path: Path) -> None:
    taken = []

    def take(place: int, result: Any) -> None:
        taken.append(result)
        if len(taken) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalProcesses(2).carry_out(
            partial(Doubler, tmp_path), ["wait", "wait"], take, lambda place, why: None
        )
    for pid in taken:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
