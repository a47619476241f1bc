"""One ablation from end to end: what is off, what stands in for it, and all that is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_bench.errors import MeasurementError
from icl_bench.measures import tokens as tk
from icl_bench.models.attention.ablation import Component, Part, Replacement
from icl_bench.probes.ablations.ablation_metrics import (
    report_ablated,
    report_clean,
    report_nothing,
    report_varied,
)
from icl_bench.probes.ablations.ablation_null import (
    NULL_METRICS,
    UNIFORM_METRICS,
    compare_with_null,
    compared_heads,
)
from icl_bench.probes.ablations.copy_runs import (
    CopyRun,
    VariedRun,
    knocked_out,
    run_repeats,
    run_varied,
)
from icl_bench.probes.ablations.null_margin import (
    MARGIN_METRICS,
    Damage,
    MarginNull,
    compare_margins,
    draw_null,
    feeding_heads,
)
from icl_bench.probes.ablations.thresholds import (
    heads_by_level,
    name_minimal_set,
    report_levels,
)
from icl_bench.probes.design.head_selection import Head, explain_empty
from icl_bench.probes.design.replacement import HeldOut, Prepared, prepare_replacement
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.ablation import Settings
    from icl_bench.probes.design.context import Context


HELD_OUT = 16
"""Sequences that mean outputs are taken over, at most."""


@dataclass(frozen=True)
class Case:
    """What one ablation switches off.

    Args:
        model: the model.
        settings: what the suite asks for.
        context: the measurement that heads are chosen from, clean runs, progress.
        tokens: repeated sequences.
        heads: the heads that are off.
        components: MLPs and layers that are off.
        prepared: what becomes of them, and of the heads that they are compared with.
        null: sets of other heads.
        levels: threshold -> heads that it would choose.
    """

    model: Model
    settings: Settings
    context: Context
    tokens: tk.RepeatedTokens
    heads: list[Head]
    components: list[Component]
    prepared: Prepared
    null: MarginNull
    levels: dict[float, list[Head]]

    @property
    def parts(self) -> list[Part]:
        """All that is off."""
        return [*self.heads, *self.components]

    @property
    def is_of_chosen_heads(self) -> bool:
        """Whether the chosen heads are off and nothing else, so that others compare."""
        return bool(self.heads) and not self.components and not self.settings.keep_only

    @property
    def scores(self) -> dict[Head, float]:
        """Induction scores of heads, where they were chosen by them."""
        upstream = self.context.upstream
        rows = upstream.heads if upstream is not None else []
        return {(r["layer"], r["head"]): r["induction"] for r in rows if "induction" in r}

    def replacement(self, where: CopyRun) -> Replacement:
        """Return what becomes of parts that are off on some sequences."""
        if self.settings.method == "edge_knockout":
            return knocked_out(where, 1)
        return self.prepared.replacement


def plan_case(
    model: Model,
    settings: Settings,
    context: Context,
    tokens: tk.RepeatedTokens,
    off: tuple[list[Head], list[Component]],
) -> Case:
    """Decide what is compared with what, and measure what stands in for all of it.

    Args:
        model: the model.
        settings: what the suite asks for.
        context: the measurement that heads are chosen from, and progress.
        tokens: repeated sequences.
        off: heads, and MLPs and layers.
    """
    heads, components = off
    null, levels, others = draw_null([], model, 0, 0, []), {}, []
    if heads and not components and not settings.keep_only:
        draws = settings.null_sets or 0
        feeders = feeding_heads(model, context.upstream, tokens.input_ids) if draws else []
        null = draw_null(heads, model, draws, settings.seed, feeders)
        levels = heads_by_level(settings, context.upstream) if draws else {}
        others = [
            *compared_heads(model, settings, heads),
            *null.heads,
            *(head for some in levels.values() for head in some),
        ]
    # A mean over a thousand positions is no surer of twice as many.
    is_mean = settings.method == "mean"
    sequences = min(settings.sequences, HELD_OUT) if is_mean else settings.sequences
    prepared = prepare_replacement(
        model,
        settings.method,
        [*heads, *components, *others],
        HeldOut.like(model, settings, tokens.input_ids.shape[1], sequences),
        patterns=settings.patterns,
        edges=tk.induction_pairs(tokens),
    )
    return Case(model, settings, context, tokens, heads, components, prepared, null, levels)


def report_case(result: Measurement, case: Case) -> None:
    """Measure the losses with everything on and with the case's parts off, and compare.

    Args:
        result: the measurement; metrics, reasons and tables are added.
        case: what is off.
    """
    settings, model, context, parts = case.settings, case.model, case.context, case.parts
    rows = settings.sequences * (2 if parts else 1) * (2 if settings.varied else 1)
    with context.task("losses, clean and ablated", rows) as advance:
        run = run_repeats(model, context, case.tokens, parts, advance)
        report_clean(result, len(case.heads), run.losses, settings.confidence)
        off = run.ablate(model, parts, case.replacement(run), advance) if parts else None
        varied = _run_varied(result, case)
        rises = None
        if varied is not None and parts:
            rises = varied.rises(model, [parts], case.replacement(varied), advance=advance)[0]
    batches = [] if varied is None else [varied.tokens.input_ids]
    result.tokens_sha256 = tk.digest_tokens(case.tokens.input_ids, *case.prepared.batches, *batches)
    if off is None:
        report_nothing(result, explain_empty(settings.heads))
    else:
        report_ablated(result, run, off, settings.confidence)
    if varied is not None:
        report_varied(result, varied, rises, settings.confidence)
    if off is not None and not case.is_of_chosen_heads:
        why = "the null is made of heads that are switched off alone"
        names = (*MARGIN_METRICS, *NULL_METRICS, *UNIFORM_METRICS)
        result.unmeasured |= dict.fromkeys(names, why)
    elif off is not None:
        compare_with_null(result, case, run, off)
        report_levels(result, model, run, case.levels, case.replacement(run))
        where: CopyRun = run
        damage = off.repeated - run.repeated
        if varied is not None and rises is not None and varied.gain.mean() > 0:
            where, damage = varied, rises
        if settings.null_sets:
            done = Damage(model, context, where, case.heads, case.replacement(where), damage)
            compare_margins(result, done, case.null, case.scores)
        else:
            result.unmeasured |= dict.fromkeys(MARGIN_METRICS, "null_sets: 0 in the suite")
        name_minimal_set(result, model, settings, context)


def _run_varied(result: Measurement, case: Case) -> VariedRun | None:
    """Return the clean run at varied distance; None where the suite or the model has none."""
    names = ("gain_varied", "copying_lost_varied")
    if not case.settings.varied:
        result.unmeasured |= dict.fromkeys(names, "varied: false in the suite")
        return None
    try:
        bos = case.model.choose_bos(case.settings.bos)
        return run_varied(case.model, case.context, case.settings, bos, case.parts)
    except MeasurementError as error:
        result.unmeasured |= dict.fromkeys(names, str(error))
        return None
