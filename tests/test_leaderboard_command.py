"""`icl-bench leaderboard` from its command line to its files, and the plugin's own leaderboards."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from boards import make, write
from conftest import Stage

from icl_bench.cli import main
from icl_bench.commands.leaderboard import DESCRIPTION
from icl_bench.errors import SettingsError
from icl_bench.reports.leaderboard import update_leaderboard

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "reports" / "samples"
DOCS = ROOT / "docs" / "leaderboard.md"

NAMES = ["leaderboard.csv", "leaderboard.html", "leaderboard.json", "leaderboard.md"]


@pytest.fixture
def reports(tmp_path):
    records = (make("good", 0.9, seed=1), make("bad", 0.1, seed=2), make("mamba", None))
    return write(tmp_path / "reports", *records)


def files(folder):
    return sorted(path.name for path in folder.glob("leaderboard.*"))


def test_the_table_is_printed_and_all_files_are_written(reports, capsys):
    assert main(["leaderboard", str(reports)]) == 0
    out = capsys.readouterr().out
    assert "Ranked by core/repeats.induction_max ↑ (more is better, probability)" in out
    assert out.index("good") < out.index("bad") < out.index("Not measured: mamba")
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert files(reports) == NAMES


def test_only_the_formats_named_are_written_into_the_output(reports, tmp_path, capsys):
    arguments = ["leaderboard", str(reports), "--md", "--json", "--output", str(tmp_path / "new")]
    assert main(arguments) == 0
    assert files(tmp_path / "new") == ["leaderboard.json", "leaderboard.md"]
    assert files(reports) == []


def test_files_given_alone_write_beside_the_first(reports, capsys):
    assert main(["leaderboard", str(reports / "good" / "results.json"), "--csv"]) == 0
    assert files(reports / "good") == ["leaderboard.csv"]


def test_the_score_and_the_suite_are_options(reports, capsys):
    assert main(["leaderboard", str(reports), "--score", "repeated_loss", "--suite", "core"]) == 0
    assert "Ranked by core/collapse.repeated_loss ↓ (less is better, nats)" in (
        capsys.readouterr().out
    )


def test_a_broken_file_is_named_at_the_end_and_exits_with_1(reports, capsys):
    (reports / "good" / "results.json").write_text("{")
    assert main(["leaderboard", str(reports), "--md"]) == 1
    told = capsys.readouterr()
    assert "bad" in told.out and "good" not in told.out
    assert told.err.startswith("icl-bench: left out: ") and "not a JSON file" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone"], "there is no such file or folder"),
        (["."], "no results.json in"),
        (["reports", "--score", "induction_mx"], "did you mean 'induction_max'"),
        (["reports", "--suite", "cor"], "did you mean 'core'"),
        (["reports", "--score", "induction_heads_"], "induction_heads"),
        (["reports", "--output", "file"], "is a file, not a folder"),
        (["reports", "--output", "s3://bucket/x"], "--output=s3://bucket/x: a URL"),
    ],
)
def test_a_mistake_exits_with_4_and_one_message(
    reports, tmp_path, monkeypatch, capsys, arguments, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["leaderboard", *arguments]) == 4
    error = capsys.readouterr().err
    assert told in error and error.startswith("icl-bench: ") and error.count("\n") == 1


def test_nothing_readable_exits_with_4(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{")
    assert main(["leaderboard", str(tmp_path)]) == 4
    assert "no record could be read" in capsys.readouterr().err


def test_a_wide_terminal_shows_more(reports, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["leaderboard", str(reports), "--md"]) == 0
    out = capsys.readouterr().out
    assert "TinyForCausalLM" in out and "collapse.repeated_loss ↓" in out


def test_no_model_and_no_torch_are_needed(reports):
    code = (
        "import sys; from icl_bench.cli import main\n"
        f"assert main(['leaderboard', {str(reports)!r}, '--md', '--html', '--json']) == 0\n"
        "print(*[m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.splitlines()[-1] == ""


def test_pytest_with_two_models_ranks_everything_in_the_report_folder(stage: Stage):
    stage.run("--icl-model=stub:good", "mine.yaml").assert_outcomes(passed=3)
    assert files(stage.path / "reports") == []
    result = stage.run("--icl-model=stub:bad", "--icl-model=stub:fine", "mine.yaml")
    result.assert_outcomes(passed=5, failed=1)
    assert files(stage.path / "reports") == NAMES
    result.stdout.fnmatch_lines(["*leaderboard.md*"])
    data = json.loads((stage.path / "reports" / "leaderboard.json").read_text())
    assert data["score"] == "mine/first.level"
    [group] = data["groups"]
    assert sorted(row["model"] for row in group["rows"]) == ["stub:bad", "stub:fine", "stub:good"]
    assert group["rows"][-1]["model"] == "stub:bad"


def test_a_run_is_not_broken_by_a_leaderboard_that_cannot_be_made(stage: Stage):
    unranked = """\
icl_suite: 1
name: unranked
measure:
  first: {probe: stub}
checks:
  - {id: there, on: first, metric: exact, above: -1}
"""
    stage.write("unranked.yaml", unranked)
    stage.write("reports/broken/results.json", "{")
    result = stage.run("--icl-model=stub:good", "--icl-model=stub:fine", "unranked.yaml")
    result.assert_outcomes(passed=2)


def test_icl_bench_run_with_two_models_writes_a_leaderboard(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "icl_suite: 1\nname: tiny\ndefaults: {sequences: 16, period: 8}\n"
        "measure: {repeats: {probe: induction, control: false}}\n"
        "checks: [{id: it, on: repeats, metric: induction_max, above: 0.4}]\n"
    )
    models = ["builtin:control-1l", "builtin:induction-2l"]
    assert main(["run", *models, "--suite", str(suite), "--no-cache"]) == 1
    assert files(tmp_path / "reports") == NAMES
    data = json.loads((tmp_path / "reports" / "leaderboard.json").read_text())
    told = [(row["model"], row["rank"]) for row in data["groups"][0]["rows"]]
    assert told == [("builtin:induction-2l", [1, 1]), ("builtin:control-1l", [2, 2])]
    assert data["groups"][0]["pairs"][0]["paired"]
    assert "leaderboard.html" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("A", "--md", "B"), ("--md", "A", "B"), ("--md", "A")])
def test_folders_may_stand_on_both_sides_of_an_option(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "A", make("good", 0.9, seed=1))
    write(tmp_path / "B", make("bad", 0.1, seed=2))
    assert main(["leaderboard", *words]) == 0
    assert ("bad" in capsys.readouterr().out) == ("B" in words)


def test_the_commands_in_the_help_rank_the_shipped_suites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SAMPLES, "reports")
    Path("theirs").mkdir()
    shutil.copy(SAMPLES / "builtin-handwired" / "results.json", "theirs")
    text = DESCRIPTION + DOCS.read_text()
    lines = [line.split("#")[0] for line in text.splitlines()]
    commands = [shlex.split(line) for line in lines if line.strip().startswith("icl-bench leaderb")]
    assert len(commands) >= 6
    for _, *words in commands:
        words = ["theirs/results.json" if word.startswith("other/") else word for word in words]
        assert main(words) == 0, words
        assert "Ranked by" in capsys.readouterr().out


def test_a_broken_file_is_named_in_every_format(reports):
    (reports / "good" / "results.json").write_text("{")
    assert main(["leaderboard", str(reports)]) == 1
    for name in NAMES:
        if name != "leaderboard.csv":  # Rows of models alone.
            assert "not a JSON file" in (reports / name).read_text(), name


def test_an_automatic_leaderboard_names_what_it_left_out(reports):
    (reports / "good" / "results.json").write_text("{")
    assert update_leaderboard(reports)
    assert "left out: " in (reports / "leaderboard.md").read_text()


def test_an_automatic_leaderboard_that_cannot_be_written_is_an_error(reports):
    (reports / "leaderboard.csv").mkdir()
    with pytest.raises(SettingsError, match="cannot be written"):
        update_leaderboard(reports)


def test_a_file_where_the_shared_script_belongs_is_a_mistake_not_a_fault(reports, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["--plotly=shared", "--html", f"--output={tmp_path / 'file'}"]
    assert main(["leaderboard", str(reports), *arguments]) == 4
    assert "is a file, not a folder" in capsys.readouterr().err


def test_numbers_measured_in_another_way_are_marked(tmp_path, monkeypatch, capsys):
    odd = make("odd", 0.8)
    odd.measurements["core/collapse"].settings = {"seed": 7}
    reports = write(tmp_path, make("a", 0.7), make("b", 0.6), odd)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["leaderboard", str(reports)]) == 0
    for text in (capsys.readouterr().out, (reports / "leaderboard.md").read_text()):
        assert text.count("†") == 2  # The number and its remark.
        assert "† odd, collapse.repeated_loss: not comparable: seed 7 (elsewhere 0)" in text
