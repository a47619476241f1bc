"""Another package adds a probe and a report: installed for real, and every mistake in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from adding_packages import PROBE, AddPackage, add_package

import icl_bench
from icl_bench import probes
from icl_bench.cli import main
from icl_bench.probes import get_probe
from icl_bench.records.parts import Measurement
from icl_bench.records.reading import read_record

__all__ = ["add_package"]

ROOT = Path(__file__).parents[1]
PLUGIN, SUITES = ROOT / "examples" / "plugin", ROOT / "suites"
SUITE = """icl_suite: 1
name: theirs
defaults: {colour: blue}
measure:
  it: {probe: theirs}
checks:
  - {id: large, on: it, metric: size, above: 0}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.yaml"
    path.write_text(SUITE)
    return path


def test_an_installed_package_adds_a_probe_a_report_and_its_part_of_all_others(
    tmp_path: Path,
) -> None:
    import torch

    folder, site = tmp_path / "plugin", tmp_path / "site"
    shutil.copytree(PLUGIN, folder, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--target", str(site), str(folder)], check=True)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(folder / "suite.yaml")),
            *("--icl-model=builtin:induction-2l", "--icl-no-cache"),
        ],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    place = tmp_path / "reports" / "builtin-induction-2l"
    record = read_record(place / "results.json")
    taken = record.measurements["entropy/entropy"]
    assert str(taken.package).startswith("icl-bench-example 0.1.0, code ")

    model = icl_bench.load_model("builtin:induction-2l")
    tokens = icl_bench.repeated_tokens(model, sequences=8, period=20, repeats=2, seed=0)
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = model.model(tokens.input_ids, output_attentions=True).attentions
    heads = torch.stack(attention).double()  # layers, sequences, heads, queries, keys
    entropy = -torch.where(heads > 0, heads * heads.log(), 0.0).sum(-1).mean(-1).mean(1)
    for row in taken.heads:
        assert row["entropy"] == pytest.approx(float(entropy[row["layer"], row["head"]]), abs=1e-5)
    assert taken.metrics["entropy_mean"].value == pytest.approx(float(entropy.mean()), abs=1e-5)
    assert taken.metrics["entropy_min"].value == pytest.approx(float(entropy.min()), abs=1e-5)

    layer, head = divmod(int(entropy.argmin()), entropy.shape[1])
    told = f"Head {layer}.{head} spreads its attention least."
    text, page = ((place / name).read_text() for name in ("report.md", "report.html"))
    assert "## Entropy of attention: entropy/entropy" in text and told in text
    assert "| Head   |   entropy (nats) |" in text and "package: icl-bench-example 0.1.0" in text
    assert told in page and "Entropy of each head (nats)" in page
    assert "0: one position gets all attention." in page
    lines = [json.loads(line) for line in (place / "report.jsonl").read_text().splitlines()]
    assert lines[0]["entropy_mean"] == taken.metrics["entropy_mean"].value


@pytest.mark.parametrize(
    ("code", "more", "message"),
    [
        (
            PROBE,
            {"name": "induction"},
            "package their-package 1.2 adds a probe 'induction', but icl_bench has one of that "
            "name; uninstall the package or rename its entry point",
        ),
        (
            "import nothing_of_this_name",
            {},
            "probe 'theirs' of package their-package 1.2, their_package, cannot be loaded: "
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (
            PROBE.replace("METRICS =", "METRIC ="),
            {},
            "probe 'theirs' of package their-package 1.2, their_package, is no probe: it needs "
            "METRICS (a dict of names to icl_bench.probes.MetricInfo)",
        ),
        (
            "Settings = measure = 3; METRICS = {'size': 'm'}; report = 'none'",
            {},
            "probe 'theirs' of package their-package 1.2, their_package, is no probe: it needs "
            "Settings (a pydantic model), METRICS (a dict of names to "
            "icl_bench.probes.MetricInfo), measure (a function of (model, settings, context)), "
            "report (a function of a measurement)",
        ),
        (
            "class Probe:\n    def __init__(self): raise RuntimeError('no way')",
            {"at": ":Probe"},
            "probe 'theirs' of package their-package 1.2, their_package:Probe, cannot be made: "
            "RuntimeError: no way",
        ),
        (
            PROBE,
            {"name": "thiers"},
            "unknown probe 'theirs'; did you mean 'thiers'?",
        ),
    ],
    ids=["name", "import", "metrics", "all of it", "class", "misspelt"],
)
def test_each_mistake_about_a_probe_is_one_message_and_exit_code_4(
    add_package: AddPackage,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    more: dict[str, str],
    message: str,
) -> None:
    add_package(code, **more)
    suite.write_text(SUITE.replace("defaults: {colour: blue}\n", ""))
    assert main(["validate", str(suite)]) == 4
    assert capsys.readouterr().err == f"{suite}:4:15: {message}\n"


def test_a_mistake_about_a_probe_ends_pytest_before_anything_is_measured(
    add_package: AddPackage, suite: Path, pytester: pytest.Pytester
) -> None:
    add_package(PROBE, name="induction")
    done = pytester.runpytest_inprocess("--icl-model=builtin:handwired", "--icl-suite=core")
    assert done.ret == 4
    assert "adds a probe 'induction', but icl_bench has one" in done.stderr.str()


@pytest.mark.parametrize(
    ("code", "at"),
    [
        (PROBE, ""),
        (
            PROBE + "class Theirs:\n    'What it is for.'\n    Settings, METRICS = Settings, "
            "METRICS\n    def measure(self, *given): return measure(*given)",
            ":Theirs",
        ),
        (
            PROBE + "from icl_bench.probes import Probe\n"
            "mine = Probe('x', Settings, METRICS, measure, doc='What it is for.')",
            ":mine",
        ),
    ],
    ids=["module", "class", "probe"],
)
def test_a_module_a_class_or_a_probe_is_one(
    add_package: AddPackage,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    at: str,
) -> None:
    add_package(code, at=at)
    record = icl_bench.run([suite], "builtin:handwired", cache=False)
    taken = record.measurements["theirs/it"]
    assert record.checks[0].verdict == "pass" and taken.metrics["size"].value == 1
    assert taken.probe == "theirs" and str(taken.package).startswith("their-package 1.2, code ")
    assert get_probe("theirs").summary == "What it is for."
    assert main(["list", "probes"]) == 0
    assert "  theirs\n    What it is for.\n" in capsys.readouterr().out
    assert main(["list", "metrics"]) == 0
    assert "how large it is [m]" in capsys.readouterr().out
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "colour" in schema["$defs"]["measure.theirs"]["properties"]


def test_what_changed_code_measures_is_not_taken_from_the_cache(
    add_package: AddPackage, suite: Path, tmp_path: Path
) -> None:
    def run() -> Measurement:
        record = icl_bench.run([suite], "builtin:handwired", cache_dir=tmp_path / "cache")
        return record.measurements["theirs/it"]

    add_package(PROBE)
    first, second = run(), run()
    assert not first.cached and second.cached and second.package == first.package
    add_package(PROBE.replace("value=1", "value=2"))
    third = run()
    assert not third.cached and third.metrics["size"].value == 2
    assert third.package != first.package


def test_a_package_that_is_not_used_is_not_imported(
    add_package: AddPackage, tmp_path: Path
) -> None:
    add_package("raise SystemExit('imported')", name="another")
    assert get_probe("induction").name == "induction" and "another" in probes.probe_names()
    assert main(["validate", str(SUITES / "core.yaml")]) == 0
    assert "their_package" not in sys.modules
