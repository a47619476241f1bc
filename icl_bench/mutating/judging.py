"""Whether suites notice an edit: measured part by part, until the first part that got worse."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from icl_bench.comparing import Comparison, Limit, Part, compare
from icl_bench.comparing.defaults import default_limit
from icl_bench.comparing.heads import HEAD_PROBE
from icl_bench.errors import ModelError
from icl_bench.models.handle import ModelName
from icl_bench.models.model import Model
from icl_bench.models.module.weights import check_finite
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.mutating.prefixes import Edited, Prefixes, Remembering
from icl_bench.probes import get_probe
from icl_bench.records.keys import Key
from icl_bench.records.record import RunRecord
from icl_bench.running.cache import KnownModel
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.setup import Setup

if TYPE_CHECKING:
    from icl_bench.mutating.planting import Site

OPENING = "opening"
"""What kills an edit that the checks on loading refuse."""
_BAD = ("regressed", "vanished", "unclear", "unpaired")


@dataclass(frozen=True)
class Judgement:
    """What noticed an edit, or would have.

    Args:
        killed_by: checks, metrics and heads that got worse.
        catchers: of what nothing noticed: metrics that moved beyond their limits, and are read by
            no check or judged the other way.
    """

    killed_by: tuple[str, ...] = ()
    catchers: tuple[str, ...] = ()


class Judge:
    """Runs suites on edited models, and compares with the unedited one.

    Args:
        baseline: the record of the unedited model.
        spec: which model.
        setup: the suites, and how they are run; without a cache.
    """

    def __init__(self, baseline: RunRecord, spec: ModelSpec, setup: Setup) -> None:
        self._baseline, self._spec, self._setup = baseline, spec, setup
        self._prefixes: Prefixes | None = None

    def remember(self, model: Model, layers: Collection[int]) -> Prefixes:
        """Run what the suites measure without an ablation on the unedited model, and keep it.

        Passes of edited models then start at the layer of the edit.

        Args:
            model: the unedited model.
            layers: layers of edits to come, at which a pass may start.
        """
        known = _wrap(Remembering, model)
        may = tuple(sorted(layer for layer in layers if layer and model.resumes.get(layer)))
        prefixes = known.prefixes = Prefixes(model.anatomy.modules, may)
        run = self._run(known, model.slug)
        plan = self._setup.plan.measurements
        for key in run.wanted() if may else ():
            if plan[key].upstream is None:
                run.measure(key)
        self._prefixes = prefixes
        return prefixes

    def _run(self, model: Model, label: str) -> ModelRun:
        run = ModelRun(LazyModel(self._spec, label, self._setup, model=model), self._setup)
        # Not described anew: the digest of its weights would take as long as a measurement.
        info = self._baseline.model.model_copy(update={"fingerprint": None})
        run.record_identity(
            KnownModel(conditions=None, model=info, environment=self._baseline.environment)
        )
        return run

    def judge(self, site: Site, label: str) -> Judgement:
        """Open the edited module as a changed model is opened, run the suites, and compare.

        Args:
            site: the model with the edit in it.
            label: what progress calls it.
        """
        try:
            edited = _open(site, self._prefixes)
        except ModelError as error:
            return Judgement((f"{OPENING}: {error}",))
        run = self._run(edited, label)
        self._setup.progress.announce(label, run.to_measure())
        for key in self._in_order(run):
            run.measure(key)
            parts = set(self._parts_of(key))
            for part in parts:
                if part.kind == "check":
                    run.check(part.suite, part.name)
            found = compare(self._baseline, run.record(), parts=parts) if parts else None
            if found is not None and found.is_worse():
                return Judgement(tuple(_noticed(found)))
        record = run.run()
        whole = compare(self._baseline, record)
        if whole.is_worse():
            return Judgement(tuple(_noticed(whole)))
        return Judgement(catchers=tuple(self._catchers(record, whole)))

    def _in_order(self, run: ModelRun) -> list[str]:
        """The measurements that the checks need, the cheapest with its sources first."""
        plan = self._setup.plan
        wanted = [key for key in plan.measurements if key in run.wanted()]

        def cost(key: str) -> float:
            planned, taken = plan.measurements[key], self._baseline.measurements.get(key)
            sources = {planned.upstream, *planned.sources.values()} - {None}
            own = 0.0 if taken is None else taken.seconds or 0.0
            return own + sum(cost(source) for source in sources if source is not None)

        return sorted(wanted, key=cost)

    def _parts_of(self, key: str) -> Iterator[Part]:
        """The parts of the comparison that need no other measurement."""
        suite = next(one for one in self._setup.plan.suites if one.name == Key(key).suite)
        for spec in suite.assertions:
            if suite.key(spec.on) == key:
                yield Part(suite.name, "check", spec.id)
        if suite.assertions and self._setup.plan.measurements[key].probe == HEAD_PROBE:
            yield Part(suite.name, "heads", Key(key).name)

    def _catchers(self, record: RunRecord, found: Comparison) -> Iterator[str]:
        """Metrics that moved, although nothing failed."""
        judged = {(metric.key, metric.metric) for metric in found.metrics}
        for metric in found.metrics:
            if metric.state == "improved":
                yield f"a limit both ways on {Key(metric.key).name}.{metric.metric}"
        limits = []
        for key, measured in self._baseline.measurements.items():
            metrics = get_probe(measured.probe).metrics
            for name in measured.metrics:
                info = metrics.get(name)
                if (key, name) in judged or info is None or info.direction is None:
                    continue
                if "p_value" in name:  # judged by its checks alone
                    continue
                limit = default_limit(self._baseline, key, name, info, 0.0)
                limits.append(Limit(f"{key}.{name}", limit.amount))
        for metric in compare(self._baseline, record, limits).metrics if limits else ():
            if (metric.key, metric.metric) not in judged and metric.state == "regressed":
                yield f"a check on {Key(metric.key).name}.{metric.metric}"


def _open(site: Site, prefixes: Prefixes | None) -> Model:
    """Make the checks of loading, and return the edited module ready to be measured."""
    check_finite(site.model.model)
    edited = _wrap(Edited, site.model, site.batch_size)
    edited.prefixes, edited.lowest = prefixes, site.lowest
    return edited


Kind = TypeVar("Kind", bound=Model)


def _wrap(kind: type[Kind], known: Model, batch_size: int | None = None) -> Kind:
    """The module of an open model as a model of another kind; its heads are looked for again."""
    return kind(
        known.model,
        known.tokenizer,
        ModelName(known.spec, known.slug, known.origin, known.revision, known.adapter),
        batch_size=batch_size or known.batch_size,
        tokenizer_note=known.tokenizer_note,
    )


def _noticed(found: Comparison) -> Iterator[str]:
    """What got worse: checks, then heads, then metrics that only the comparison judges."""
    for check in found.checks:
        if check.state in _BAD:
            yield check.id
    for head in found.died:
        yield f"{head.kind.replace('_', '-')} head {head.name}"
    for metric in found.metrics:
        if metric.state in _BAD:
            yield f"{Key(metric.key).name}.{metric.metric}"
