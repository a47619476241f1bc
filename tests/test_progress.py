"""How far a run is and how long it will take: known, roughly known, or said to be unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_render_records import make_record

from icl_bench.progress import Pace, ProgressState, RunProgress
from icl_bench.progress.log import Log
from icl_bench.progress.progress_state import UNKNOWN, describe, duration
from icl_bench.records.parts import Measurement
from icl_bench.render.writing.text import columns
from icl_bench.running.earlier import earlier_seconds
from icl_bench.suite import find_suite
from icl_bench.suite.plan import make_plan

TWO = {"a": "mine/first", "b": "mine/second"}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A display that keeps all it was told."""

    def __init__(self, wait: float = 0.0, redraws: bool = True) -> None:
        self.wait, self.redraws = wait, redraws
        self.shown: list[ProgressState] = []
        self.cleared = 0

    def show(self, state: ProgressState) -> None:
        self.shown.append(state)

    def clear(self) -> None:
        self.cleared += 1

    @property
    def last(self) -> ProgressState:
        return self.shown[-1]


def make(
    models: list[str], earlier: dict[str, dict[str, float]] | None = None
) -> tuple[RunProgress, Kept, Clock]:
    display, clock = Kept(), Clock()
    times = earlier or {}
    progress = RunProgress(models, display, lambda model: times.get(model, {}), clock=clock)
    return progress, display, clock


def take(progress: RunProgress, clock: Clock, key: str, seconds: float) -> None:
    """Take a measurement that lasts so long."""
    with progress.measuring(key) as finish:
        clock.now += seconds
        finish(Measurement(probe="p", seconds=seconds))


def test_a_standing_names_model_measurement_and_task() -> None:
    progress, display, _ = make(["m", "n"])
    progress.enter("n", TWO)
    progress.found("a", Measurement(probe="p", cached=True))
    with progress.measuring("b"), progress.task("losses", 8) as advance:
        advance(6)
    last = display.last
    assert (last.model, last.place, last.models) == ("n", 2, 2)
    assert (last.measurement, last.number, last.measurements) == ("second", 2, 2)
    assert (last.task, last.done, last.total) == ("losses", 6, 8)
    assert display.cleared > 0


def test_nothing_measured_yet_means_that_the_time_is_unknown() -> None:
    progress, display, clock = make(["m"])
    progress.enter("m", TWO)
    with progress.measuring("a"), progress.task("losses", 4) as advance:
        assert display.last.left is None and display.last.time_left == UNKNOWN
        clock.now += 10
        advance(1)
        # A quarter in 10 s: 30 s for this task, and nothing is known of the other measurement.
        assert display.last.left is None
        assert display.last.task_left == pytest.approx(30)
        assert display.last.time_left == "task 30 s, rest unknown yet"


def test_an_earlier_run_tells_and_is_scaled_by_the_pace_of_this_one() -> None:
    progress, display, clock = make(["m"], {"m": {"a": 10.0, "b": 40.0}})
    progress.enter("m", TWO)
    with progress.opening("m", "org/m"):
        pass
    with progress.measuring("a") as finish:
        assert display.last.left == pytest.approx(50)
        clock.now += 4
        with progress.task("losses", 0):
            assert display.last.left == pytest.approx(46)
        clock.now += 16
        finish(Measurement(probe="p", seconds=20.0))
    with progress.measuring("b"):
        # The first took twice as long as then, so will the second.
        assert display.last.left == pytest.approx(80)
        assert display.last.rough is False


def test_a_measurement_that_takes_longer_than_then_slows_what_is_expected() -> None:
    progress, display, clock = make(["m"], {"m": {"a": 10.0, "b": 40.0}})
    progress.enter("m", TWO)
    with progress.opening("m", "org/m"):
        pass
    with progress.measuring("a"):
        clock.now += 30
        with progress.task("losses", 0):
            assert display.last.left == pytest.approx(0 + 3 * 40)
        with progress.task("more losses", 10) as advance:
            clock.now += 6
            advance(2)
            # 36 s by now; this task takes 24 s more by its own pace.
            assert display.last.left == pytest.approx(24 + 3.6 * 40)


def test_of_one_unknown_measurement_all_is_unknown() -> None:
    progress, display, _ = make(["m"], {"m": {"a": 10.0}})
    progress.enter("m", TWO)
    with progress.opening("m", "org/m"):
        pass
    with progress.measuring("a"):
        assert display.last.left is None


def test_another_models_times_count_once_both_have_measured_the_same_and_roughly() -> None:
    progress, display, clock = make(["m", "n"])
    progress.enter("m", TWO)
    take(progress, clock, "a", 2.0)
    take(progress, clock, "b", 6.0)
    progress.enter("n", TWO)
    with progress.measuring("a") as finish:
        assert display.last.left is None
        clock.now += 10
        finish(Measurement(probe="p", seconds=10.0))
    with progress.measuring("b"):
        assert display.last.left == pytest.approx(30)
        assert display.last.time_left == "about 30 s left"


def test_times_from_the_cache_tell_how_long_things_take_but_not_the_pace_of_this_run() -> None:
    pace = Pace()
    pace.note("m", "a", 2.0, cached=True)
    pace.note("m", "b", 6.0, cached=True)
    assert pace.expect("n", "b") is None
    pace.note("n", "a", 1.0, cached=True)
    assert pace.expect("n", "b") is None
    pace.note("n", "a", 1.0)
    known = pace.expect("n", "b")
    assert known is not None and known.seconds == pytest.approx(3.0) and known.rough


def test_a_hundredth_of_a_second_says_nothing_of_a_pace() -> None:
    pace = Pace()
    for model, a in (("m", 0.001), ("n", 0.01)):
        pace.note(model, "a", a)
    pace.note("m", "b", 60.0)
    assert pace.expect("n", "b") is None


def test_the_checkpoints_to_come_take_as_long_as_those_that_were_measured() -> None:
    progress, display, clock = make(["runs"])
    for place, seconds in ((1, 4.0), (2, 6.0)):
        progress.enter("runs", {})
        progress.at_step(place * 100, place, 5)
        progress.enter("runs", TWO)
        with progress.opening("runs", "runs@100"):
            clock.now += 3
        take(progress, clock, "a", seconds)
        with progress.measuring("b") as finish:
            if place == 2:
                # 1 s of this one, then three checkpoints: 3 s to open, 5 s and 1 s each.
                assert display.last.left == pytest.approx(1 + 3 * (3 + 5 + 1))
                assert display.last.time_left == "28 s left for all steps"
                assert display.last.place_in_run == "step 200 (2 of 5)"
            clock.now += 1
            finish(Measurement(probe="p", seconds=1.0))
    progress.at_step(None)
    with progress.task("phase change", 0):
        assert display.last.step is None and display.last.left is None


def test_opening_is_shown_and_is_no_part_of_a_measurements_time() -> None:
    progress, display, clock = make(["m"], {"m": {"a": 10.0, "b": 40.0}})
    progress.enter("m", TWO)
    with progress.measuring("a") as finish:
        with progress.opening("m", "org/m"):
            assert display.last.task == "opening org/m"
            # What a record says of the measurements says nothing of opening.
            assert display.last.left is None
            clock.now += 100
        clock.now += 10
        finish(Measurement(probe="p", seconds=10.0))
    with progress.measuring("b"):
        assert display.last.left == pytest.approx(40)


def test_a_failed_measurement_says_nothing_of_a_pace() -> None:
    progress, display, clock = make(["m"], {"m": {"a": 10.0, "b": 40.0}})
    progress.enter("m", TWO)
    with progress.opening("m", "org/m"):
        pass
    with progress.measuring("a") as finish:
        clock.now += 0.1
        finish(Measurement(probe="p", status="error", reason="it broke"))
    with progress.measuring("b"):
        assert display.last.left == pytest.approx(40)


def test_an_exception_leaves_nothing_on_the_display() -> None:
    progress, display, _ = make(["m"])
    progress.enter("m", TWO)
    with pytest.raises(KeyboardInterrupt), progress.measuring("a"), progress.task("x", 1):
        cleared = display.cleared
        raise KeyboardInterrupt
    assert display.cleared > cleared


def test_a_log_gets_a_line_every_fifteen_seconds_with_something_new() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = RunProgress(["m"], Log(lines.append), clock=clock)
    progress.enter("m", TWO)
    with progress.measuring("a"), progress.task("losses", 100) as advance:
        for _ in range(4):
            clock.now += 5
            advance(10)
        assert lines == [" icl_bench 1/2 first: losses 30%; task 35 s, rest unknown yet"]
        clock.now += 9
        advance(1)
        assert len(lines) == 1
        clock.now += 1
        advance(1)
        assert len(lines) == 2


def test_a_log_does_not_repeat_itself() -> None:
    lines: list[str] = []
    log = Log(lines.append)
    for _ in range(2):
        log.show(ProgressState("m", task="opening m"))
    assert lines == [f" icl_bench opening m; {UNKNOWN}"]


@pytest.mark.parametrize("width", [40, 60, 79, 120])
def test_a_line_keeps_its_numbers_and_stays_within_the_width(width: int) -> None:
    state = ProgressState(
        model="模型-" * 20,
        place=2,
        models=3,
        measurement="collapse",
        number=4,
        measurements=7,
        task="losses, clean and ablated, of every sequence there is",
        done=45,
        total=100,
        left=130.0,
    )
    line = describe(state, width)
    assert columns(line) <= width
    assert line.endswith(" 45%; 2 min left")
    if width >= 60:
        assert " icl_bench 2/3 模" in line and ": 4/7 collapse: l" in line


def test_names_in_a_line_cannot_act_on_the_terminal() -> None:
    hostile = "\x1b[2J\n::error::a\x07\u202eb"
    state = ProgressState(hostile, 1, 2, measurement=hostile, task=hostile)
    line = describe(state, 200, hostile.split("\n")[0].replace("\x1b", ""))
    assert not any(sign in line for sign in "\x1b\n\r\x07\u202e")


def test_durations() -> None:
    told = [duration(seconds) for seconds in (0.2, 1, 89, 91, 3600, 9000)]
    assert told == ["under 1 s", "1 s", "89 s", "2 min", "60 min", "2.5 h"]


def test_an_earlier_record_tells_under_the_same_settings_only(tmp_path: Path) -> None:
    plan = make_plan([find_suite("core")])
    name, other = "core/repeats", "core/collapse"
    settings = {
        key: plan.measurements[key].settings.model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        for key in (name, other)
    }
    settings[other] = {**settings[other], "sequences": 4711}
    probes = {name: "induction", other: "ablation"}
    measurements = {
        key: Measurement(probe=probes[key], seconds=3.0, settings=settings[key])
        for key in (name, other)
    }
    record = make_record(measurements=measurements)
    look = earlier_seconds(plan, tmp_path)
    assert look("m") == {}
    record.write(tmp_path / "m" / "results.json")
    assert look("m") == {plan.measurements[name].digest: 3.0}
    (tmp_path / "m" / "results.json").write_text("not a record")
    assert look("m") == {}


def test_a_series_tells_the_mean_of_its_checkpoints(tmp_path: Path) -> None:
    plan = make_plan([find_suite("core")])
    planned = plan.measurements["core/repeats"]
    settings = planned.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    taken = Measurement(
        probe="induction",
        seconds=12.0,
        settings=settings,
        tables={"steps": [{"step": step} for step in range(4)]},
    )
    make_record(measurements={"core/repeats": taken}).write(tmp_path / "m" / "results.json")
    assert earlier_seconds(plan, tmp_path)("m") == {planned.digest: 3.0}


def test_a_model_is_announced_with_what_there_is_to_do() -> None:
    progress, _, _ = make(["m", "n"], {"n": {"a": 10.0, "b": 50.0}})
    assert progress.foretell("m", ["a"]) == "icl_bench: model 1 of 2, m: 1 measurement"
    told = "icl_bench: model 2 of 2, n: 2 measurements, 60 s in an earlier run"
    assert progress.foretell("n", TWO) == told
    told = "icl_bench: model 1 of 2, m: 2 measurements at each of 7 checkpoints"
    assert progress.foretell("m", TWO, 7) == told


@pytest.mark.parametrize("done", [8, 9])
def test_a_task_that_is_done_does_not_ask_how_long_it_takes(done: int) -> None:
    state = ProgressState("m", measurement="a", number=1, measurements=2, task="t", total=8)
    assert "unknown" in describe(state, 80)
    state = ProgressState("m", measurement="a", number=1, measurements=2, done=done, total=8)
    assert describe(state, 80) == " icl_bench 1/2 a 100%"
    known = ProgressState("m", measurement="a", number=1, measurements=2, done=8, total=8, left=5)
    assert describe(known, 80).endswith("100%; 5 s left")
