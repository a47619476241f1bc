"""The benchmarks run and count right; what they time is not looked at."""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import icl_bench

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(monkeypatch, capsys, name: str, *arguments: str) -> list[list[str]]:
    """Run a benchmark in this process; return the cells of its tables' rows."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return [cells for cells in table if not cells[0].startswith("---")][1:]


def test_contenders_agree_and_what_is_left_out_says_why(monkeypatch, capsys) -> None:
    arguments = ["--tokens", "41", "81", "--rounds", "1", "--per-round", "82"]
    arguments += ["--contenders", "plain", "scan", "eager", "--up-to", "eager=41"]
    rows = run(monkeypatch, capsys, "scan_cost.py", "builtin:handwired", *arguments)
    assert [row[1] for row in rows] == ["plain", "scan", "eager"] * 2
    assert rows[0][:3] == ["2 x 41", "plain", "1"]
    assert float(rows[2][-1]) < 1e-4
    assert rows[5][2] == "not run: left out by --up-to"
    arguments += ["--memory", "0.000001"]
    rows = run(monkeypatch, capsys, "scan_cost.py", "builtin:handwired", *arguments)
    assert rows[2][2].startswith("not run: would need 0.0 GiB")


def test_a_contender_with_other_scores_is_named(monkeypatch, capsys) -> None:
    contenders = importlib.import_module("contenders")
    monkeypatch.setattr(contenders, "read_diagonals", lambda pattern, tokens: pattern[:4, :, 0, 0])
    arguments = ["--tokens", "41", "--rounds", "1", "--per-round", "164"]
    arguments += ["--contenders", "scan", "eager"]
    rows = run(monkeypatch, capsys, "scan_cost.py", "builtin:handwired", *arguments)
    assert "not the same scores" in rows[1][-1]


@pytest.mark.long
def test_memory_is_measured_in_a_process_of_its_own(monkeypatch, capsys) -> None:
    arguments = ["--tokens", "41", "--contenders", "plain", "scan"]
    rows = run(monkeypatch, capsys, "memory.py", "builtin:handwired", *arguments)
    assert [row[1] for row in rows] == ["plain", "scan"]
    assert 0 < float(rows[1][3]) < 100


def test_a_sweep_is_compared_with_as_many_forwards(monkeypatch, capsys) -> None:
    arguments = ["--seeds", "0", "--rounds", "1", "--period", "8", "--lens-heads", "0"]
    rows = run(monkeypatch, capsys, "sweep_cost.py", "builtin:handwired", *arguments)
    assert rows[0][0] == "0" and float(rows[0][1]) > 0


def test_a_suite_is_counted_in_forward_passes(monkeypatch, capsys, tmp_path) -> None:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "icl_suite: 1\nname: tiny\ndefaults: {sequences: 4, period: 50}\n"
        "measure:\n  repeats: {probe: induction, control: false}\n"
        "checks:\n  - {id: some, on: repeats, metric: induction_max, above: 0}\n"
    )
    rows = run(monkeypatch, capsys, "suite_cost.py", "builtin:handwired", "--suite", str(suite))
    # Four sequences go through the layers once, and not through the head.
    assert rows[0][1:3] == ["4", "0"]


def test_an_evaluation_is_timed_in_training_steps(monkeypatch, capsys, tmp_path) -> None:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "icl_suite: 1\nname: tiny\ndefaults: {sequences: 4, period: 8}\n"
        "measure:\n  repeats: {probe: induction, control: false}\n"
        "checks:\n  - {id: some, on: repeats, metric: induction_max, above: 0}\n"
    )
    arguments = ["--suite", str(suite), "--rows", "2", "--length", "16", "--rounds", "1"]
    rows = run(monkeypatch, capsys, "training_cost.py", "builtin:induction-2l", *arguments)
    assert float(rows[0][1]) > 0 and rows[0][3].endswith("%")


def test_layers_that_are_passed_over_count_nothing() -> None:
    counted = importlib.import_module("suite_cost").counted
    model = icl_bench.load_model("builtin:handwired")
    tokens = icl_bench.repeated_tokens(model, sequences=2, period=8)
    with counted(model.model) as passed:
        icl_bench.ablation_sweep(model, tokens)
    assert passed[0] < passed[1]
    with counted(model.model) as passed, torch.no_grad():
        model.model(tokens.input_ids)
    assert set(passed.values()) == {tokens.input_ids.numel()}


def test_controls_count_the_verdicts_of_models_without_the_circuit(monkeypatch, capsys):
    rows = run(monkeypatch, capsys, "controls.py", "--suites", "gate", "--seeds", "1")
    assert {row[0] for row in rows} == {"builtin:induction-2l, redrawn", "builtin:control-1l"}
    for control, suite, check, passed, failed, undecided, skipped, broke in rows:
        assert suite == "gate"
        assert int(passed) + int(failed) + int(undecided) + int(skipped) == 1
        assert broke == "0"
        if check in ("has-induction-heads", "copying-is-lost"):
            assert failed == "1", control


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["pass", "skipped"], True),
        (["skipped"], False),
        (["pass", "inconclusive"], False),
        (["pass", "error"], False),
    ],
)
def test_a_suite_passes_as_a_whole_if_something_passes_and_nothing_else(verdicts, whole):
    assert importlib.import_module("controls").passes(verdicts) is whole


def test_no_pass_among_sixty_bounds_the_share_by_five_percent():
    bound = importlib.import_module("controls").bound
    assert bound(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert bound(60, 60) == 1


def test_boards_are_held_against_their_true_ranks(monkeypatch, capsys) -> None:
    ranking = importlib.import_module("ranking")
    truth = torch.tensor([2.0, 2.0, 0.0]).numpy()
    assert ranking.true_ranks(truth) == [(1, 2), (1, 2), (3, 3)]
    assert ranking.holds([(1, 2), (1, 3), (3, 3)], truth)
    assert not ranking.holds([(1, 1), (1, 3), (3, 3)], truth)
    arguments = ["--boards", "20", "--models", "4", "--samples", "8"]
    rows = run(monkeypatch, capsys, "ranking.py", *arguments)
    assert [row[0] for row in rows] == [world.name for world in ranking.WORLDS]
    normal = rows[0]
    assert normal[1:3] == ["4", "8"] and float(normal[3].rstrip("%")) >= 80


def test_a_leaderboards_cost_is_measured_step_by_step(monkeypatch, capsys) -> None:
    sample = BENCHMARKS.parent / "reports" / "samples" / "builtin-induction-2l" / "results.json"
    arguments = ["--records", "3", "--suite", "core", "--sample", str(sample)]
    rows = run(monkeypatch, capsys, "leaderboard_cost.py", *arguments)
    assert [row[0].split()[0] for row in rows] == (
        ["reading", "ranking", "terminal", "md", "html", "csv", "json", "all"]
    )
    assert all(float(row[-1]) > 0 for row in rows)


def test_false_alarms_and_caught_damage_are_counted(monkeypatch, capsys) -> None:
    quick = ["--pairs", "1", "--kinds", "batch", "noise", "--seeds", "1", "--scales", "0"]
    rows = run(monkeypatch, capsys, "baseline_noise.py", *quick)
    assert rows[:2] == [["batch", "1", "0", "0"], ["noise", "1", "0", "0"]]
    # Of the second table the header stands among the rows.
    assert [row[0] for row in rows[3:]] == ["induction 1.0", "induction 1.4", "previous_token 0.9"]
    assert {row[-1] for row in rows[3:]} == {"1 of 1"}


def test_a_scaled_head_writes_so_much_less_and_the_original_stays() -> None:
    noise = importlib.import_module("baseline_noise")
    model = icl_bench.load_model("builtin:induction-2l")
    ids = icl_bench.repeated_tokens(model, sequences=2, period=8).input_ids
    whole = icl_bench.token_losses(model, ids)
    off = icl_bench.token_losses(noise.scaled(model, 1, 4, 0.0), ids)
    torch.testing.assert_close(
        torch.as_tensor(off),
        torch.as_tensor(icl_bench.token_losses(model, ids, ablate=[(1, 4)], method="zero")),
        atol=1e-5,
        rtol=1e-5,
    )
    assert (torch.as_tensor(off) - torch.as_tensor(whole)).abs().max() > 0.1
    same = icl_bench.token_losses(noise.scaled(model, 1, 4, 1.0), ids)
    torch.testing.assert_close(torch.as_tensor(same), torch.as_tensor(whole))


def test_every_plugin_is_tried_alone_with_xdist_and_with_all_others() -> None:
    matrix = importlib.import_module("plugin_matrix")
    tried = list(matrix.combinations(["sugar", "timeout", "xdist", "unknown"]))
    assert tried[:4] == [[], ["xdist"], ["timeout"], ["sugar"]]
    assert tried[4:6] == [["xdist", "timeout"], ["xdist", "sugar"]]
    assert tried[6:] == [["timeout", "sugar"], ["xdist", "timeout", "sugar"]]
    seen = matrix.Seen(1, {"m s/c": "pass 1.0"}, {"t": "passed"})
    assert seen.differs(seen) == ""
    other = matrix.Seen(0, {"m s/c": "fail 1.0"}, {})
    assert other.differs(seen) == (
        "exit code 0, not 1; m s/c: fail 1.0, not pass 1.0; t: None, not passed"
    )


@pytest.mark.long
def test_a_run_under_xdist_is_the_same(tmp_path: Path) -> None:
    matrix = importlib.import_module("plugin_matrix")
    seen = []
    for plugins in ([], ["xdist"]):
        folder = tmp_path / "-".join(["run", *plugins])
        folder.mkdir()
        seen.append(matrix.run(sys.executable, plugins, folder))
    assert seen[1].differs(seen[0]) == "" and len(seen[0].verdicts) == 8


def test_changes_of_the_code_are_drawn_by_their_seed_and_change_one_line() -> None:
    mutation = importlib.import_module("mutation_run")
    changes = list(mutation.draw_changes(12, 5))
    assert changes == list(mutation.draw_changes(12, 5)) != list(mutation.draw_changes(12, 6))
    for one in changes:
        sound = (BENCHMARKS.parent / "icl_bench" / one.file).read_text()
        plain = ast.unparse(ast.parse(sound)).splitlines()
        lines = one.source.splitlines()
        assert len(lines) == len(plain), one.name
        assert sum(a != b for a, b in zip(plain, lines)) == 1, one.name
    tests = {path.stem for path in (BENCHMARKS.parent / "tests").glob("test_*.py")}
    assert {f"test_{name}" for names in mutation.COVER.values() for name in names.split()} <= tests


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_runs_that_are_killed_lose_nothing() -> None:
    command = [sys.executable, str(BENCHMARKS / "kills.py")]
    done = subprocess.run(
        [*command, "--terminate=2", "--cold=2", "--series=1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert [int(row[1]) for row in rows] == [2, 2, 1]
    assert all(int(row[3]) >= int(row[2]) and int(row[4]) == 0 for row in rows)


def test_the_cost_of_edits_is_told_by_what_became_of_them(monkeypatch, capsys, tmp_path) -> None:
    clock = time.perf_counter
    arguments = ["--edits", "head-zero,batch-size", "--report-dir", str(tmp_path)]
    rows = run(monkeypatch, capsys, "circuit_edits.py", "builtin:induction-2l", *arguments)
    assert [row[:2] for row in rows] == [
        *(["killed", "2"], ["survived", "0"], ["neutral", "1"], ["all", "3"])
    ]
    assert all(float(row[2]) > 0 for row in (rows[0], rows[2], rows[3])) and rows[1][2] == ""
    assert (tmp_path / "builtin-induction-2l" / "mutation.json").is_file()
    assert time.perf_counter is clock
