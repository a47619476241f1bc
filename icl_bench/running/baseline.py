"""The baseline of a run: what it is compared with, and where it is saved as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.comparing import Comparison, Limit, Part, check_limits, compare, parse_limit
from icl_bench.comparing.heads import HEAD_PROBE
from icl_bench.comparing.metrics import keys_of
from icl_bench.comparing.parts import Owners
from icl_bench.errors import IclError, SettingsError
from icl_bench.naming import RECORD
from icl_bench.options import refuse_url
from icl_bench.probes import get_probe
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import write_atomically
from icl_bench.render.parts import PartVerdict, judge_part
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.render.writing.outlet import Outlet
from icl_bench.render.writing.text import printable
from icl_bench.reports.places import check_file

if TYPE_CHECKING:
    from icl_bench.running.request import Request
    from icl_bench.suite.plan import Plan

REPORT = "comparison.md"


class Baseline:
    """What the options about a baseline ask for, under pytest and of `icl-bench run`.

    Args:
        record: what the run is compared with; None for nothing.
        limits: how much worse metrics may get.
        target: where the run is saved as a baseline; None for nowhere.
        strict: whether what cannot be told counts as worse.
        require_paired: whether a metric fails that could be paired and is not.
        prefix: what the options' names begin with, for messages.
    """

    def __init__(
        self,
        record: RunRecord | None,
        limits: Sequence[Limit] = (),
        target: Path | None = None,
        *,
        strict: bool = True,
        require_paired: bool = False,
        prefix: str = "--icl-",
    ) -> None:
        self._record, self._limits, self._target, self._strict = record, limits, target, strict
        self._require_paired, self._prefix = require_paired, prefix
        self.comparison: Comparison | None = None
        self._lines: list[str] = []
        self._trouble: str | None = None

    def take(self, record: RunRecord) -> None:
        """Compare with this record: that of a baseline that is a model, once it is measured.

        Args:
            record: its record.
        """
        self._record = record

    def to_json(self) -> str:
        """Return the baseline's record as text, for another process."""
        assert self._record is not None
        return self._record.to_json()

    def _compare(self, record: RunRecord, parts: Collection[Part] | None = None) -> Comparison:
        assert self._record is not None
        return compare(
            self._record,
            record,
            self._limits,
            parts=parts,
            require_paired=self._require_paired,
        )

    def keys_of(self, part: Part, plan: Plan) -> list[str]:
        """Return the measurements of a plan that a part of the comparison needs.

        Args:
            part: the part.
            plan: the run's.
        """
        if part.kind == "heads":
            return [f"{part.suite}/{part.name}"]
        assert self._record is not None
        asked = {
            (suite.name, spec.id): (suite.key(spec.on), spec.metric)
            for suite, spec in plan.assertions()
        }
        owners = Owners(self._record, asked, [suite.name for suite in plan.suites])
        keys = keys_of(self._record, self._limits, owners, part)
        return [key for key in keys if key in plan.measurements]

    def judge_part(self, part: Part, record: RunRecord) -> tuple[PartVerdict, Comparison]:
        """Return what becomes of the test of one part, and what was found of it.

        Args:
            part: the part.
            record: the run so far, with what the part needs.
        """
        assert self._record is not None
        found = self._compare(record, {part})
        return judge_part(part, found, self._record, self._strict), found

    def judge(
        self,
        records: Sequence[RunRecord],
        folder: Path | None,
        parts: Collection[Part] | None = None,
    ) -> bool:
        """Compare the run's record and save it; return whether nothing got worse or went wrong.

        Args:
            records: of the run; one, or none where nothing was measured.
            folder: the model's report folder, for the comparison; None to write none.
            parts: the parts whose tests have run, where not all have; None where all of it is
                compared.
        """
        if not records or records[0].status == "interrupted":
            why = "nothing was measured" if not records else "the run was interrupted"
            self._trouble = f"not compared and not saved: {why}"
            return False
        troubles = []
        if self._record is not None:
            troubles.append(_trouble_of(lambda: self._write(records[0], folder, parts)))
        if self._target is not None and (self._record is None or self.comparison is not None):
            troubles.append(_trouble_of(lambda: self._save(records[0])))
        self._trouble = "; ".join(filter(None, troubles)) or None
        if self._trouble:
            return False
        return self.comparison is None or self.comparison.passes(self._strict)

    def _write(
        self, record: RunRecord, folder: Path | None, parts: Collection[Part] | None
    ) -> None:
        from icl_bench.render.comparison import comparison_markdown

        if parts is not None and not parts:
            self._lines.append("nothing was compared: no test of a comparison was run")
            return
        self.comparison = self._compare(record, parts)
        if parts is not None:
            self.comparison.remarks.insert(0, "compared is a part: other tests were not run")
        if folder is not None:
            path = write_atomically(
                folder / REPORT, comparison_markdown(self.comparison, self._strict)
            )
            self._lines.append(f"comparison: {path}")

    def _save(self, record: RunRecord) -> None:
        assert self._target is not None
        if record.status != "complete":
            raise SettingsError(
                f"{self._prefix}save-baseline: {self._target} was not written: the run is "
                f"{record.status}, and checks that are missing from a baseline would never be "
                "missed"
            )
        # Of everything, whatever tests were chosen.
        if self._record is not None and not self._compare(record).passes(self._strict):
            self._lines.append(f"not saved as a baseline, because it is worse: {self._target}")
            return
        record.write(self._target)
        self._lines.append(f"saved as a baseline: {self._target}")

    def texts(self, outlet: Outlet, *, brief: bool = False) -> list[str]:
        """Return what the comparison found and where things were written, for a terminal.

        Args:
            outlet: what text for the terminal has to keep to.
            brief: whether what failed tests have told of is left out.
        """
        texts = []
        if self.comparison is not None:
            from icl_bench.render.comparison import comparison_text

            texts.append(
                comparison_text(
                    self.comparison,
                    **outlet.options(),
                    inconclusive_fails=self._strict,
                    brief=brief,
                )
            )
        return [*map(escape_ci_commands, texts), *map(printable, self._lines)]

    @property
    def trouble(self) -> str | None:
        """Why nothing was compared or saved, where that went wrong."""
        return self._trouble


def _trouble_of(work: Callable[[], None]) -> str | None:
    """Do something; return in words what went wrong."""
    try:
        work()
    except IclError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: cannot be written ({error.strerror or error})"
    return None


def list_parts(plan: Plan) -> list[Part]:
    """Return every part of a comparison with a baseline, suite by suite.

    Args:
        plan: the run's.

    Raises:
        SettingsError: two of a suite have one name.
    """
    parts = []
    for suite in plan.suites:
        scored = [name for name, spec in suite.measure.items() if spec.probe == HEAD_PROBE]
        parts += [Part(suite.name, "check", spec.id) for spec in suite.assertions]
        parts += [Part(suite.name, "heads", name) for name in scored]
        parts.append(Part(suite.name, "complete", suite.name))
    named: dict[tuple[str, str], Part] = {}
    for part in parts:
        other = named.setdefault((part.suite, part.label), part)
        if other != part:
            raise SettingsError(
                f"suite {part.suite!r}: check {other.name!r} has the name that the comparison of "
                f"{part.name!r} has, {part.label}: with a baseline it needs another one"
            )
    return parts


NEEDS_BASELINE = ("limit", "require-paired")
"""Options that say something of a baseline, and nothing without one."""


def read_baseline(request: Request, models: int, plan: Plan) -> Baseline | None:
    """Read what a request says of a baseline, before anything is measured.

    Returns None where it says nothing. A baseline that is a model has no record yet.

    Args:
        request: what is asked for.
        models: how many models it has.
        plan: what it measures.

    Raises:
        InputError: a file is not there, is no record, or cannot be written; an option is wrong.
    """
    source, target = request.baseline, request.save_baseline
    name_of, suites = request.name_of, request.suites
    subject = "--icl-model" if request.prefix == "--icl-" else "model"
    for option, value in (("baseline", source), ("save-baseline", target)):
        if value and models != 1:
            raise SettingsError(
                f"{name_of(option)} is for exactly one {subject}; this run has {models}"
            )
    for option, given in zip(NEEDS_BASELINE, (request.limit, request.require_paired)):
        if given and not source:
            raise SettingsError(f"{name_of(option)} needs {name_of('baseline')}=FILE")
    if not source and not target:
        return None
    limits = [parse_limit(text) for text in request.limit]
    record = None
    if source and model_of(request):
        _check_planned(limits, plan)
    elif source:
        record = read_record(request.folder / source)
        check_limits(limits, record)
        names = {suite.name for suite in record.suites}
        if not names & {suite.name for suite in suites}:
            raise SettingsError(
                f"{name_of('baseline')}={source} holds suite {', '.join(sorted(names))}; this run "
                f"has {', '.join(suite.name for suite in suites) or 'none'}"
            )
    path = None
    if target:
        path = check_file(target, name_of("save-baseline"), request.folder)
        if path.suffix != ".json":
            raise SettingsError(
                f"{name_of('save-baseline')}={target}: the name has to end in .json, or "
                f"{name_of('baseline')} would not take the file"
            )
    return Baseline(
        record,
        limits,
        path,
        strict=request.strict,
        require_paired=request.require_paired,
        prefix=request.prefix,
    )


def model_of(request: Request) -> str | None:
    """Return the baseline that a request names where it is a model and no record; else None.

    A record is a file that ends in .json, or a folder that holds one and no model.

    Args:
        request: what is asked for.

    Raises:
        SettingsError: it is a URL.
    """
    source = request.baseline
    if not source:
        return None
    refuse_url(source, request.name_of("baseline"))
    path = request.folder / source
    is_record = path.suffix == ".json" or (path / RECORD).is_file()
    return None if is_record else source


def _check_planned(limits: Sequence[Limit], plan: Plan) -> None:
    """Refuse limits that name nothing that the baseline's model will be measured for."""
    known = [
        (key, name)
        for key, planned in plan.measurements.items()
        for name in get_probe(planned.probe).metrics
    ]
    for limit in limits:
        if not any(limit.names(*metric) for metric in known):
            raise SettingsError(f"limit {limit.pattern!r} names no metric that is measured")
