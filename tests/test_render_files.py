from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_render_records import make_record

from icl_bench.errors import SettingsError
from icl_bench.records.parts import SuiteRef
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.reports import files
from icl_bench.reports.files import write_reports

NAMES = ["results.json", "report.md", "checks.csv", "heads.csv", "badge.json", "report.html"]
PARTIAL = [
    *("results.partial.json", "report.partial.md", "checks.partial.csv", "heads.partial.csv"),
    "badge.partial.json",
    "report.partial.html",
]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def status(folder: Path, name: str = "results.json") -> str:
    return read_record(folder / "builtin-tiny" / name).status


def test_every_model_gets_a_folder_with_all_reports(tmp_path: Path) -> None:
    other = make_record()
    other.model.slug = "gpt2"
    written = write_reports([make_record(), other], tmp_path / "new" / "reports")
    folder = tmp_path / "new" / "reports"
    assert written == [folder / slug / name for slug in ("builtin-tiny", "gpt2") for name in NAMES]
    assert read_record(written[0]) == make_record()
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(NAMES)


def test_the_record_is_written_before_a_report_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setitem(files.REPORTS, "report.md", fail)
    with pytest.raises(ZeroDivisionError):
        write_reports([make_record()], tmp_path)
    assert status(tmp_path) == "complete"


@pytest.mark.parametrize("kind", ["partial", "interrupted"])
def test_an_incomplete_run_stands_beside_a_complete_record(tmp_path: Path, kind: str) -> None:
    write_reports([make_record()], tmp_path)
    before = {name: (tmp_path / "builtin-tiny" / name).read_bytes() for name in NAMES}
    assert names(write_reports([make_record(status=kind, checks=[])], tmp_path)) == PARTIAL
    assert {name: (tmp_path / "builtin-tiny" / name).read_bytes() for name in NAMES} == before
    assert status(tmp_path, "results.partial.json") == kind


def test_a_complete_run_replaces_a_complete_record_and_clears_partial_ones(tmp_path: Path) -> None:
    write_reports([make_record()], tmp_path)
    write_reports([make_record(status="partial")], tmp_path)
    assert names(write_reports([make_record(created="later")], tmp_path)) == NAMES
    assert read_record(tmp_path / "builtin-tiny" / "results.json").created == "later"
    assert sorted(p.name for p in (tmp_path / "builtin-tiny").iterdir()) == sorted(NAMES)


def test_a_complete_run_of_another_suite_leaves_partial_records(tmp_path: Path) -> None:
    write_reports([make_record()], tmp_path)
    write_reports([make_record(status="partial")], tmp_path)
    write_reports([make_record(suites=[SuiteRef(name="olsson", sha256="9")])], tmp_path)
    assert status(tmp_path, "results.partial.json") == "partial"


def test_an_incomplete_run_replaces_an_incomplete_one(tmp_path: Path) -> None:
    write_reports([make_record(status="partial")], tmp_path)
    assert names(write_reports([make_record(status="interrupted")], tmp_path)) == NAMES
    assert status(tmp_path) == "interrupted"


@pytest.mark.parametrize("sha256", ["a" * 64, "0" * 64])
def test_only_the_same_suites_protect_a_complete_record(tmp_path: Path, sha256: str) -> None:
    write_reports([make_record()], tmp_path)
    new = make_record(status="partial", suites=[SuiteRef(name="core", sha256=sha256)])
    expected = PARTIAL if sha256 == "a" * 64 else NAMES
    assert names(write_reports([new], tmp_path)) == expected


@pytest.mark.parametrize(
    ("spec", "fingerprint", "origins", "same"),
    [
        ("builtin:tiny", "0" * 64, ("1" * 12, "1" * 12), True),
        ("builtin:tiny", "f" * 64, ("1" * 12, "2" * 12), False),
        ("builtin:tiny", None, (None, "1" * 12), True),
        ("builtin:tiny", "0" * 64, (None, None), False),
        ("elsewhere/tiny", "f" * 64, (None, None), True),
        ("elsewhere/tiny", None, (None, None), False),
    ],
)
def test_models_are_the_same_by_origin_and_without_one_by_weights_or_spec(
    tmp_path: Path,
    spec: str,
    fingerprint: str | None,
    origins: tuple[str | None, str | None],
    same: bool,
) -> None:
    old, new = make_record(), make_record(status="partial")
    old.model.origin, new.model.origin = origins
    new.model.spec, new.model.fingerprint = spec, fingerprint
    place = write_reports([old], tmp_path)[0]
    written = write_reports([new], tmp_path)
    assert names(written) == (PARTIAL if same else NAMES)
    assert (written[0].parent == place.parent) is same
    assert read_record(place).status == "complete"


def test_a_record_that_does_not_say_where_its_model_came_from_is_put_aside(tmp_path: Path) -> None:
    old, new = make_record(), make_record()
    new.model.origin, new.model.fingerprint = "1" * 12, "0" * 64
    folder = write_reports([old], tmp_path)[0].parent
    assert write_reports([new], tmp_path)[0] == folder / "results.json"
    assert read_record(folder / "results.ffffff.json").model.fingerprint == "f" * 64
    # The next run knows whose record is there.
    write_reports([new], tmp_path)
    assert len(list(folder.glob("results*.json"))) == 2


def test_records_of_one_call_do_not_replace_each_other(tmp_path: Path) -> None:
    one, other = make_record(), make_record()
    other.model.fingerprint = "0" * 64
    folders = {path.parent for path in write_reports([one, other], tmp_path)}
    assert len(folders) == 2


def test_a_name_with_digits_may_be_another_models_too(tmp_path: Path) -> None:
    for slug, origin in (("m", "a" * 12), ("m-cccccc", "b" * 12), ("m", "c" * 12)):
        record = make_record()
        record.model.slug, record.model.origin = slug, origin
        path = write_reports([record], tmp_path)[0]
    assert path.parent.name == f"m-{'c' * 12}"
    assert read_record(tmp_path / "m-cccccc").model.origin == "b" * 12


def test_the_record_of_another_model_is_never_replaced(tmp_path: Path) -> None:
    """Not even where two runs began at once, and neither could see the other's name."""
    one, other = make_record(), make_record()
    one.model.origin, other.model.origin = "1" * 12, "2" * 12
    first = write_reports([one], tmp_path)[0]
    second = write_reports([other], tmp_path)[0]
    assert second.parent.name == f"{first.parent.name}-222222"
    assert read_record(first).model.origin == "1" * 12
    assert read_record(second).model.slug == second.parent.name
    assert write_reports([one], tmp_path)[0] == first


def test_only_a_complete_run_replaces_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    place = tmp_path / "builtin-tiny" / "results.json"
    place.parent.mkdir()
    place.write_text('{"schema": 99}')
    assert names(write_reports([make_record(status="partial")], tmp_path)) == PARTIAL
    assert place.read_text() == '{"schema": 99}'
    assert names(write_reports([make_record()], tmp_path)) == NAMES


def test_a_folder_that_cannot_be_written_gives_one_message(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(SettingsError, match=r"report folder .*reports.*: cannot be written \("):
        write_reports([make_record()], tmp_path / "reports")


@pytest.mark.parametrize("slug", ["../../evil", "/etc/evil", "..", ""])
def test_a_slug_cannot_lead_out_of_the_report_folder(tmp_path: Path, slug: str) -> None:
    record = make_record()
    record.model.slug = slug
    for path in write_reports([record], tmp_path / "reports"):
        assert path.resolve().parent.parent == tmp_path / "reports"


def test_a_new_report_format_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.REPORTS, "words.txt", lambda record: record.model.spec)
    written = write_reports([make_record()], tmp_path)
    assert {*names(written)} == {*NAMES, "words.txt"}
    partial = write_reports([make_record(status="partial")], tmp_path)
    assert "words.partial.txt" in names(partial)
    assert (written[0].parent / "words.partial.txt").read_text() == "builtin:tiny"


@pytest.mark.parametrize(
    ("extra", "clean"), [("", True), ("import tabulate", False), ("import pandas", False)]
)
def test_importing_the_rooms_loads_no_heavy_library(extra: str, clean: bool) -> None:
    program = (
        "import sys, icl_bench.running.checks, icl_bench.reports.files, icl_bench.render.terminal\n"
        f"{extra}\n"
        "heavy = {'torch', 'transformers', 'pandas', 'tabulate'} & set(sys.modules)\n"
        "sys.exit(1 if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=False)
    assert (found.returncode == 0) is clean


def test_records_are_there_although_a_report_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: RunRecord) -> str:
        raise KeyError("a fault of a report")

    monkeypatch.setitem(files.REPORTS, "report.md", fail)
    records = [make_record(), make_record()]
    records[1].model.slug = "gpt2"
    with pytest.raises(KeyError):
        write_reports(records, tmp_path)
    assert (tmp_path / "gpt2" / "results.json").is_file()
