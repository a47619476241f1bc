"""The report files of a run: REPORT_DIR/SLUG/{results.json, report.md, report.html, ...}.

A series of checkpoints has steps.csv beside them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from icl_bench.errors import RecordError, SettingsError
from icl_bench.naming import RECORD, clean, further_names, is_of_another
from icl_bench.options import refuse_url
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import Writer, write_atomically
from icl_bench.render import badge, csv, markdown
from icl_bench.render.html.page import Plotly, plotly_name, share_plotly
from icl_bench.render.html.report import report_page
from icl_bench.render.html.training_run import training_run_page
from icl_bench.reports.added import AddedReport, added_reports

REPORTS: dict[str, Callable[[RunRecord], str]] = {
    "report.md": markdown.report,
    "checks.csv": csv.checks_csv,
    "heads.csv": csv.heads_csv,
    "badge.json": badge.badge,
}
"""File name -> what returns its text. A new report format is one row here."""

PAGES: dict[str, Callable[[RunRecord, str | None], str]] = {"report.html": report_page}
"""File name -> what returns that HTML page, given the address of the charting script."""

SERIES_REPORTS: dict[str, Callable[[RunRecord], str]] = {"steps.csv": csv.steps_csv}
"""The same, of files that only a series of checkpoints has."""


def write_reports(
    records: Sequence[RunRecord],
    report_dir: str | os.PathLike[str],
    plotly: Plotly = "inline",
    troubles: list[str] | None = None,
) -> list[Path]:
    """Write every report file of every record and return their paths, the record's first.

    A partial or interrupted run does not replace a complete record of the same model and suites:
    its files are then called `results.partial.json`, `report.partial.md` and so on, until the next
    complete run takes their place. Nor does any replace the record of another model: where one lies
    in the folder of its name, the name gets six digits of the model's origin, in the record too.

    Args:
        records: one record per model.
        report_dir: folder that gets one folder per model; made if it is not there.
        plotly: whether each HTML page carries the charting script, or the report folder does once.
        troubles: gets why a report of another package could not be made, or a file not be written;
            all others are written.

    Raises:
        SettingsError: no file can be written, or what another package adds is no report; without
            `troubles` also, if some file cannot be written.
    """
    added, given = added_reports(), troubles
    troubles = [] if troubles is None else troubles
    records = _own_names(records, Path(report_dir))
    folders = [Path(report_dir) / folder_name(record.model.slug) for record in records]
    writer = Writer()
    folder = Path(report_dir)
    try:
        places = []
        # Every record first: a report that cannot be made must not cost what was measured.
        for record, folder in zip(records, folders):
            _keep_unknown(record, folder)
            aside = record.status != "complete" and _holds_complete(record, folder / RECORD)
            places.append(_partial_name if aside else str)
            writer.attempt(folder / places[-1](RECORD), record.write)
        # In each folder the record first.
        kept, writer.written = set(writer.written), []
        for record, folder, place in zip(records, folders, places):
            if folder / place(RECORD) in kept:
                writer.written.append(folder / place(RECORD))
                _render(record, folder, place, plotly, added, troubles, writer)
            else:  # old reports stay beside the old record
                for name in (*REPORTS, *PAGES):
                    writer.give_up(folder / place(name))
                continue
            if record.status == "complete" and _is_same(record, folder / _partial_name(RECORD)):
                more = [report.file for report in added]
                for name in (RECORD, *REPORTS, *PAGES, *SERIES_REPORTS, *more):
                    (folder / _partial_name(name)).unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"report folder {folder}: cannot be written ({error.strerror or error})"
        ) from None
    _tell(writer, Path(report_dir), given)
    return writer.written


def _tell(writer: Writer, folder: Path, troubles: list[str] | None) -> None:
    """Say which files could not be written: among the troubles, or as an error."""
    told = writer.explain()
    if told is None:
        return
    if troubles is None or not writer.written:
        raise SettingsError(f"report folder {folder}: cannot be written ({told})")
    troubles.append(f"reports: {told}")


def write_record(record: RunRecord, path: Path) -> list[Path]:
    """Write a record's reports into a folder, or one of them into a file; return the paths.

    Args:
        record: the record.
        path: `NAME.html` or `NAME.md` for that page alone, else a report folder.

    Raises:
        SettingsError: it cannot be written.
    """
    pages = {".html": lambda: report_page(record, None), ".md": lambda: markdown.report(record)}
    refuse_url(path, "report ")
    if path.suffix not in pages:
        return write_reports([record], path)
    try:
        return [write_atomically(path, pages[path.suffix]())]
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror or error})") from None


def _own_names(records: Sequence[RunRecord], report_dir: Path) -> list[RunRecord]:
    """The records under names that no other model has, in the report folder by now or here."""
    named: dict[str, RunRecord] = {}
    for record in records:
        model = record.model
        names = (model.slug, *further_names(model.slug, model.origin))
        slug = next(
            name
            for name in names
            if folder_name(name) not in named
            and not is_of_another(model, report_dir / folder_name(name))
        )
        if slug != model.slug:
            record = record.model_copy(update={"model": model.model_copy(update={"slug": slug})})
        named[folder_name(slug)] = record
    return list(named.values())


def _keep_unknown(record: RunRecord, folder: Path) -> None:
    """Put a record of an earlier version aside that may be another model's.

    It does not say where its model came from, and the weights are others.
    """
    try:
        old = read_record(folder / RECORD).model
    except RecordError:
        return
    weights = (old.fingerprint, record.model.fingerprint)
    if old.origin is None and record.model.origin and None not in weights and len({*weights}) == 2:
        stem, _, suffix = RECORD.partition(".")
        os.replace(folder / RECORD, folder / f"{stem}.{str(old.fingerprint)[:6]}.{suffix}")


def _render(
    record: RunRecord,
    folder: Path,
    place: Callable[[str], str],
    plotly: Plotly,
    added: Sequence[AddedReport],
    troubles: list[str],
    writer: Writer,
) -> None:
    reports = REPORTS | (SERIES_REPORTS if record.model.steps else {})
    # All texts first: a report that cannot be made must not leave old ones beside new ones.
    texts = {name: make(record) for name, make in reports.items()}
    script = f"../{plotly_name()}" if plotly == "shared" else None
    texts |= {name: make(record, script) for name, make in PAGES.items()}
    for report in added:
        text = report.make(record, troubles)
        if text is None:
            (folder / place(report.file)).unlink(missing_ok=True)
        else:
            texts[report.file] = text
    if plotly == "shared":
        share_plotly(folder.parent)
    for name, text in texts.items():
        path = folder / place(name)
        if not writer.attempt(path, functools.partial(write_atomically, text=text)):
            # An old one beside a new record would tell of another run.
            path.unlink(missing_ok=True)


def render_again(
    record: RunRecord,
    source: Path,
    folder: Path,
    plotly: Plotly = "inline",
    troubles: list[str] | None = None,
) -> list[Path]:
    """Write every report file of a record that lies in a file, and not the record.

    What the file's name has beside `results` is put into the reports' names: `results.partial.json`
    gives `report.partial.md`, `results-step500.json` `report-step500.md`. A record of any other
    name gives `NAME.report.md`.

    Args:
        record: the record.
        source: the file that it was read from.
        folder: where the reports go; made if it is not there.
        plotly: whether each HTML page carries the charting script, or the folder above does once.
        troubles: gets why a report of another package could not be made; all others are written.

    Raises:
        SettingsError: the folder cannot be written, or what another package adds is no report.
    """
    writer = Writer()
    try:
        # The folder above of "." is known only by its whole path.
        _render(
            record,
            folder.resolve(),
            lambda name: _named_after(source, name),
            plotly,
            added_reports(),
            [] if troubles is None else troubles,
            writer,
        )
    except OSError as error:
        raise SettingsError(
            f"report folder {folder}: cannot be written ({error.strerror or error})"
        ) from None
    _tell(writer, folder, None)
    return writer.written


TRAINING = "training.html"
"""The page of a training run, beside the records of its evaluations."""


def write_training_run(
    records: Mapping[Path, RunRecord], folder: Path, plotly: Plotly = "inline"
) -> Path:
    """Write the page of a training run into the folder of its evaluations' reports.

    Args:
        records: file that an evaluation was read from -> its record, each of another step.
        folder: where the reports of `render_again` are.
        plotly: whether the page carries the charting script, or the folder above does once.

    Raises:
        SettingsError: the folder cannot be written.
    """
    pages = {
        record.step: _named_after(path, "report.html")
        for path, record in records.items()
        if record.step is not None
    }
    script = f"../{plotly_name()}" if plotly == "shared" else None
    text = training_run_page(list(records.values()), pages, script)
    try:
        return write_atomically(folder / TRAINING, text)
    except OSError as error:
        raise SettingsError(
            f"report folder {folder}: cannot be written ({error.strerror or error})"
        ) from None


def _named_after(source: Path, name: str) -> str:
    """The name of a report of the record in `source`."""
    main = RECORD.partition(".")[0]
    found = re.fullmatch(rf"{main}((?:[.-].*)?)\.json", source.name)
    if found is None:
        return f"{source.stem}.{name}"
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{found[1]}{dot}{suffix}"


def _holds_complete(record: RunRecord, path: Path) -> bool:
    """Whether `path` must not be replaced by an incomplete `record`."""
    if not path.exists():
        return False
    try:
        old = read_record(path)
    except RecordError:
        return (
            True  # Perhaps a complete record of a later version: only a complete run replaces it.
        )
    return old.status == "complete" and _same_subject(record, old)


def _is_same(record: RunRecord, path: Path) -> bool:
    try:
        return _same_subject(record, read_record(path))
    except RecordError:
        return False


def _same_subject(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records are about the same model and the same suites."""
    if {(s.name, s.sha256) for s in one.suites} != {(s.name, s.sha256) for s in other.suites}:
        return False
    fingerprint = one.model.fingerprint
    if fingerprint is not None and fingerprint == other.model.fingerprint:
        return True
    origins = one.model.origin, other.model.origin
    return origins[0] == origins[1] if all(origins) else one.model.spec == other.model.spec


def _partial_name(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.partial{dot}{suffix}"


def folder_name(slug: str) -> str:
    """Return the name of a model's report folder.

    A record read from a file may carry any slug; it must not lead out of the report folder.

    Args:
        slug: the model's.
    """
    return clean(slug).lstrip(".") or "model"
