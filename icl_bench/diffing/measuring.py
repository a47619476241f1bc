"""Measures two models or more, one in memory at a time, compares each with the first, explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from icl_bench.comparing import Limit, compare
from icl_bench.comparing.limits import parse_limit
from icl_bench.comparing.pairing import OTHER_VOCABULARY
from icl_bench.diffing.difference import Diff
from icl_bench.diffing.parts import TEXTS_LEFT_OUT, keep_shared, pair_texts, without_texts
from icl_bench.diffing.sides import Side
from icl_bench.diffing.vocabularies import LEAST, list_texts, share_ids
from icl_bench.errors import IclError, ModelError, SettingsError
from icl_bench.probes import get_probe, kind_of
from icl_bench.progress import RunProgress
from icl_bench.records.record import RunRecord
from icl_bench.running.job import Job
from icl_bench.running.model_run import ModelRun
from icl_bench.running.termination import terminable


@dataclass(frozen=True)
class Rules:
    """How the models are compared.

    Args:
        limits: how much worse metrics may get.
        strict: whether what cannot be told counts as worse.
    """

    limits: Sequence[Limit] = ()
    strict: bool = True

    @classmethod
    def read(cls, limits: Sequence[str], inconclusive: str) -> Rules:
        """Read what was given.

        Args:
            limits: METRIC=AMOUNT.
            inconclusive: `fail` or `warn`.

        Raises:
            SettingsError: a limit is not of that form.
        """
        return cls([parse_limit(text) for text in limits], inconclusive == "fail")


def check_rules(rules: Rules, sides: Sequence[Side]) -> None:
    """Refuse limits that name nothing, before anything is measured.

    Args:
        rules: how the models are compared.
        sides: the models.

    Raises:
        SettingsError: a limit names no metric of the first model's measurements.
    """
    first = sides[0]
    if first.record is not None:
        known = [
            (key, name) for key, one in first.record.measurements.items() for name in one.metrics
        ]
    else:
        assert first.job is not None
        planned = first.job.plan.measurements
        known = [
            (key, name) for key, one in planned.items() for name in get_probe(one.probe).metrics
        ]
    for limit in rules.limits:
        if not any(limit.names(key, name) for key, name in known):
            raise SettingsError(f"limit {limit.pattern!r} names no metric that is measured")


def diff_sides(sides: Sequence[Side], rules: Rules, progress: RunProgress) -> list[Diff]:
    """Measure what is missing and compare every model with the first one.

    Args:
        sides: A, and one B or more.
        rules: how they are compared.
        progress: is told what is going on.

    Raises:
        SettingsError: nothing of two of them can be compared.
        ModelError: a model cannot be opened or run.
    """
    with terminable(), _cached(sides):
        before = _measure(sides[0], progress)
        return [
            _compare(sides[0], side, before, _measure(side, progress), rules, progress)
            for side in sides[1:]
        ]


def _measure_on(side: Side, run: ModelRun, pool: list[int], progress: RunProgress) -> RunRecord:
    """Measure a model on some ids alone; afterwards it has its own again."""
    assert side.job is not None
    model = run.model
    own, model.vocabulary = model.vocabulary, pool
    try:
        job = Job(replace(side.job.request, models=[model]), [side.name])
        job.prepare(progress)
        return without_texts(job.runs[side.name].run())
    finally:
        model.vocabulary = own
        run.close()


@contextmanager
def _cached(sides: Sequence[Side]) -> Iterator[None]:
    jobs = [side.job for side in sides if side.job is not None]
    for job in jobs:
        job.begin()
    try:
        yield
    finally:
        for job in jobs:
            job.end()
        if jobs and jobs[0].cache:
            jobs[0].cache.trim()


def _run_of(side: Side, progress: RunProgress) -> ModelRun:
    assert side.job is not None
    if not side.job.runs:
        side.job.prepare(progress)
    [run] = side.job.runs.values()
    assert isinstance(run, ModelRun)
    return run


def _measure(side: Side, progress: RunProgress) -> RunRecord:
    """The side's record; it is measured once, and the model let go of."""
    if side.record is None:
        run = _run_of(side, progress)
        progress.announce(side.name, run.to_measure())
        try:
            side.record = run.run()
        finally:
            run.close()
        if run.lazy.failure:
            raise ModelError(run.lazy.failure)
    return side.record


def _compare(
    a: Side, b: Side, before: RunRecord, after: RunRecord, rules: Rules, progress: RunProgress
) -> Diff:
    before, after = keep_shared(before, after), keep_shared(after, before)
    found = compare(before, after, rules.limits)
    remarks: list[str] = []
    if any(one.unpaired == OTHER_VOCABULARY for one in found.metrics):
        before, after, remarks = _reword(a, b, before, after, progress)
        found = compare(before, after, rules.limits)
    if not found.tells:
        why = next((one.reason for one in after.measurements.values() if one.reason), None)
        raise SettingsError(
            f"nothing of {found.baseline} and {found.model} can be compared"
            + (f": {why}" if why else "")
        )
    result = Diff(before, after, found, remarks=remarks, strict=rules.strict)
    if result.passes:
        return result
    if a.job is None or b.job is None:
        which = found.baseline if a.job is None else found.model
        result.remarks.append(
            f"{which} is a record: what explains the difference needs both models, so only "
            "behaviour is compared"
        )
        return result
    _explain(a, b, result, progress)
    return result


def _reword(
    a: Side, b: Side, before: RunRecord, after: RunRecord, progress: RunProgress
) -> tuple[RunRecord, RunRecord, list[str]]:
    """Measure both on ids that stand for the same text, where both are models, and say so."""
    before, after, remarks = without_texts(before), without_texts(after), [TEXTS_LEFT_OUT]
    if a.job is None or b.job is None:
        return before, after, [*remarks, "the vocabularies differ, so nothing is paired"]
    runs = [_run_of(side, progress) for side in (a, b)]
    texts = []
    for run in runs:
        texts.append(list_texts(run.model))
        run.close()
    pools = share_ids(*texts)
    if len(pools[0]) < LEAST and len(pools[0]) < min(map(len, texts)):
        told = f"the vocabularies share only {len(pools[0])} texts, so nothing is paired"
        return before, after, [*remarks, told]
    on_a, on_b = (_measure_on(*one, progress) for one in zip((a, b), runs, pools))
    told = f"the vocabularies differ: measured on the {len(pools[0])} texts that they share"
    return *pair_texts(on_a, on_b, before, after), [*remarks, told]


def _explain(a: Side, b: Side, result: Diff, progress: RunProgress) -> None:
    """Add which place of B, restored from A, brings back what was lost."""
    from icl_bench.diffing.explaining import Drawing, Pair, explain

    runs = [_run_of(side, progress) for side in (a, b)]

    def let_go() -> None:
        for run in runs:
            run.close()

    worse = [one for one in result.comparison.metrics if one.state == "regressed"]
    measured = result.before.measurements
    texts = any(kind_of(measured[one.key].probe) == "texts" for one in worse)
    pair = Pair(lambda: runs[0].model, lambda: runs[1].model, let_go, progress.task)
    drawing = Drawing.of(one.settings for one in measured.values())
    try:
        found = explain(pair, drawing, ("copying", "text") if texts else ("copying",))
    except IclError as error:
        result.remarks.append(f"what explains the difference could not be measured: {error}")
        return
    result.lost, result.loss = found.of, found.lost
    result.restored, result.remarks = found.restored, [*result.remarks, *found.remarks]
