"""Another package adds a probe and a report: installed for real, and every mistake in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from html_pages import SAMPLES
from test_render_records import make_record

import icl_bench
from icl_bench import probes, provenance
from icl_bench.cli import main
from icl_bench.probes import get_probe, known_probe
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.reading import read_record
from icl_bench.render.html.heads import section as heads_section
from icl_bench.render.html.report import report_page
from icl_bench.render.markdown import report
from icl_bench.reports.files import write_reports

ROOT = Path(__file__).parents[1]
PLUGIN, SUITES = ROOT / "examples" / "plugin", ROOT / "suites"
PROBE = """
'''What it is for.'''
from icl_bench.probes import MetricInfo
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.records.parts import Measurement, Metric

class Settings(StrictSettings):
    colour: str = "red"

METRICS = {"size": MetricInfo("how large it is", "up", "m")}

def measure(model, settings, context):
    return Measurement(probe="its own name", metrics={"size": Metric(value=1, exact=True)})
"""
SUITE = """icl_suite: 1
name: theirs
defaults: {colour: blue}
measure:
  it: {probe: theirs}
checks:
  - {id: large, on: it, metric: size, above: 0}
"""

AddPackage = Callable[..., None]


def forget() -> None:
    """Let the next look-up find what is installed by then."""
    for cached in (probes._added, probes._added_probe, provenance.package_version):
        cached.cache_clear()
    provenance.module_version.cache_clear()
    sys.modules.pop("their_package", None)


@pytest.fixture
def add_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddPackage]:
    """Put a package of one module, with one entry point, on the path."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def add(code: str, name: str = "theirs", group: str = "probes", at: str = "") -> None:
        info = site / "their_package-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")
        entry = f"[icl_bench.{group}]\n{name} = their_package{at}\n"
        (info / "entry_points.txt").write_text(entry)
        (site / "their_package.py").write_text(code)
        forget()

    yield add
    forget()


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


REPORT = "suffix = 'txt'\ndef write(record):\n    return record.model.slug\n"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (
            REPORT,
            "md",
            "package their-package 1.2 adds a report 'md', but icl_bench has one of that name; "
            "uninstall the package or rename its entry point",
        ),
        (
            REPORT.replace("txt", ".html"),
            "mine",
            "report 'mine' of package their-package 1.2 writes report.html, and so does icl_bench",
        ),
        (
            REPORT.replace("txt", "../x"),
            "mine",
            "report 'mine' of package their-package 1.2: '../x' is no suffix of a file",
        ),
        (
            "suffix = 'txt'",
            "mine",
            "report 'mine' of package their-package 1.2, their_package, has no write",
        ),
        (
            "suffix = 'txt'; write = 3",
            "mine",
            "report 'mine' of package their-package 1.2: its 'write' is no function of a record",
        ),
        (
            "1 / 0",
            "mine",
            "report 'mine' of package their-package 1.2, their_package, cannot be loaded: "
            "ZeroDivisionError: division by zero",
        ),
    ],
    ids=["name", "suffix", "path", "no write", "no function", "import"],
)
def test_each_mistake_about_a_report_is_one_message_and_exit_code_4(
    add_package: AddPackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    name: str,
    message: str,
) -> None:
    add_package(code, name, "reports")
    out = tmp_path / "out"
    for command in (["run", "builtin:handwired", f"--report-dir={out}"], ["report", str(tmp_path)]):
        assert main(command) == 4
        assert capsys.readouterr().err == f"icl-bench: {message}\n"
    assert not out.exists()


def test_a_report_that_raises_is_told_and_all_others_are_written(
    add_package: AddPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_package(REPORT, "mine", "reports")
    troubles: list[str] = []
    (folder,) = {path.parent for path in write_reports([make_record()], tmp_path)}
    assert (folder / "report.txt").read_text() == make_record().model.slug
    add_package(REPORT.replace("record.model.slug", "record.modle"), "mine", "reports")
    paths = write_reports([make_record()], tmp_path, troubles=troubles)
    assert {path.name for path in paths} >= {"results.json", "report.md", "report.html"}
    assert not (folder / "report.txt").exists()
    message = (
        "report 'mine' of package their-package 1.2: report.txt is not written for builtin:tiny: "
        "AttributeError: 'RunRecord' object has no attribute 'modle'"
    )
    assert troubles == [message]
    assert main(["report", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.err == f"icl-bench: {message}\n" and "report.md" in told.out


def measured(probe: str = "theirs", **rest: object) -> Measurement:
    return Measurement(
        probe=probe,
        metrics={"size": Metric(value=1, exact=True)},
        heads=[
            {"layer": 0, "head": head, "spread": head / 4, "spread_stderr": 0.1} for head in (0, 1)
        ],
        tables={"parts": [{"name": "a|b", "size": 0.5}, {"name": "c", "k|ept": [1, True]}]},
    )


def test_a_probe_that_is_not_installed_is_shown_by_its_tables() -> None:
    assert known_probe("theirs") is None
    record = make_record(measurements={"s/it": measured()})
    text, page = report(record), report_page(record, "plotly.js")
    assert "## spread: s/it" in text and "| 0.1    | 0.25 ± 0.1 |" in text
    assert "## parts: s/it" in text and r"| name   |   size |    k\|ept |" in text
    assert r"| a\|b   |    0.5 |           |" in text
    assert "[1, true]" in text and "parts (s/it)" in page and "a|b" in page
    heads = heads_section(record)
    assert heads is not None and [one["name"] for one in heads["data"]["scores"]] == ["spread"]


def test_long_tables_are_cut_with_a_remark_and_those_of_a_series_left_to_it() -> None:
    rows = [{"x": place} for place in range(60)]
    taken = measured()
    taken.tables = {"long": rows, "steps": rows, "empty": []}
    text = report(make_record(measurements={"s/it": taken}))
    assert "The first 50 of 60 rows; results.json has all of them." in text
    assert "## steps" not in text and "## empty" not in text


BLOCKS = (
    PROBE
    + """
from icl_bench.records.blocks import Curve, HeadGrid, Line, Table, Text

def report(measurement):
    rows = [{"x": 1, "y": 2.0}, {"x": 3, "y": 4.0, "z": 0.5}, {"x": 5}]
    return [
        Text(title="In words", text="As <b> it is.", note="A remark."),
        Curve(title="A curve", x="time (s)", y="m", lines=[Line("up", rows, "x", "y"),
              Line("side", rows, "x", "z")]),
        Table(title="A table", columns=["What", "Size"], rows=[["a", 1 / 3], ["b", None]]),
        HeadGrid(title="Spread of heads", score="spread", rows=measurement.heads, unit="m"),
    ]
"""
)


def test_blocks_of_every_kind_are_drawn(add_package: AddPackage) -> None:
    add_package(BLOCKS)
    record = make_record(measurements={"s/it": measured()})
    text, page = report(record), report_page(record, "plotly.js")
    assert "## In words: s/it\n\nAs &lt;b&gt; it is.\n\nA remark." in text
    assert (
        "| time (s)   |   up: m |   side: m |" in text
        and "| 3          |       4 |       0.5 |" in text
    )
    assert "## A table: s/it" in text and "| a      |  0.333 |" in text
    assert "<b>In words (s/it):</b> As &lt;b&gt; it is." in page
    assert '"title": "A curve (s/it)"' in page or '"title":"A curve (s/it)"' in page
    heads = heads_section(record)
    assert heads is not None
    assert [one["label"] for one in heads["data"]["scores"]] == ["Spread of heads (m)"]
    skipped = make_record(
        measurements={"s/it": Measurement(probe="theirs", status="skipped", reason="no heads")}
    )
    assert "In words" not in report(skipped)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("raise ValueError('no rows')", "ValueError: no rows"),
        ("return ['text']", "TypeError: it returned something that is no block"),
        (
            "return [Table(title='t', columns=['a'], rows=[[1, 2]])]",
            "ValueError: table 't': 2 cells in a row of 1 columns",
        ),
        (
            "return [Curve(title='c', x='a', y='b', lines=[[1, 2]])]",
            "TypeError: curve 'c': lines are no Line",
        ),
    ],
)
def test_a_part_that_cannot_be_made_is_told_and_its_tables_shown(
    add_package: AddPackage, part: str, told: str
) -> None:
    add_package(BLOCKS.replace("    rows = [{", f"    {part}\n    rows = [{{"))
    text = report(make_record(measurements={"s/it": measured()}))
    assert f"The report of probe 'theirs' broke: {told}" in text and "## parts: s/it" in text


def test_tables_of_known_names_and_other_columns_are_tables_like_any_other() -> None:
    names = ("composition", "example_tokens", "curves", "positions", "attention_sides", "switches")
    taken = measured()
    taken.tables = {name: [{"colour": "red"}] for name in names}
    record = make_record(measurements={"s/it": taken})
    text, page = report(record), report_page(record, "plotly.js")
    for name in names:
        assert f"## {name}: s/it" in text and f"{name} (s/it)" in page
    assert "Phase change" not in text and 'id="circuit"' not in page and 'id="example"' not in page


def test_blocks_are_plain_data() -> None:
    record = read_record(SAMPLES / "SmolLM2-135M-Instruct.Q4_1" / "results.json")
    blocks = [block for one in record.measurements.values() for block in probes.report_of(one)]
    assert {type(block).__name__ for block in blocks} == {"Curve", "Table"}
    for block in blocks:
        assert json.loads(json.dumps(asdict(block))) == asdict(block)


def test_a_package_that_is_not_used_is_not_imported(
    add_package: AddPackage, tmp_path: Path
) -> None:
    add_package("raise SystemExit('imported')", name="another")
    assert get_probe("induction").name == "induction" and "another" in probes.probe_names()
    assert main(["validate", str(SUITES / "core.yaml")]) == 0
    assert "their_package" not in sys.modules
