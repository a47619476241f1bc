"""How many heads other thresholds choose, and which few carry copying where the chosen do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.ablation import Replacement
from icl_bench.probes.ablations.copy_runs import RepeatedRun
from icl_bench.probes.design.combined import narrow
from icl_bench.probes.design.head_selection import Head, qualify, rows_above
from icl_bench.probes.design.settings import HeadSelection
from icl_bench.records.parts import Measurement
from icl_bench.records.rows import list_heads

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.ablation import Settings
    from icl_bench.probes.design.context import Context

LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds that are shown beside the suite's own."""
FEW = 4
"""Sequences that they are measured on."""
LOST = 0.25
"""Share of copying that switching heads off must take for them to carry it."""
KEPT = 0.9
"""Share that a minimal set keeps."""


def heads_by_level(settings: Settings, upstream: Measurement | None) -> dict[float, list[Head]]:
    """Return threshold -> heads that it chooses, where heads are chosen by attention scores.

    The first score of the rule must be above the threshold; the others above it or their own
    bound, whichever is lower.

    Args:
        settings: the ablation's.
        upstream: the measurement that heads are chosen from.
    """
    rule = settings.heads
    if not isinstance(rule, HeadSelection) or not rule.where or upstream is None:
        return {}
    bounds = {name: bound.above for name, bound in rule.where.items()}
    first = next(iter(bounds))
    if None in bounds.values() or not first.startswith("induction"):
        return {}
    return {
        level: sorted(
            narrow(
                rule,
                upstream,
                set(
                    rows_above(
                        upstream.heads,
                        {
                            name: level if name == first else min(level, own or 0)
                            for name, own in bounds.items()
                        },
                    )
                ),
                qualify,
            )
        )
        for level in LEVELS
    }


def report_levels(
    result: Measurement,
    model: Model,
    run: RepeatedRun,
    levels: dict[float, list[Head]],
    replacement: Replacement,
) -> None:
    """Report the number of heads and the copying lost over thresholds.

    Args:
        result: the measurement; the table `thresholds` is added.
        model: the model.
        run: the clean run.
        levels: threshold -> heads that it chooses.
        replacement: what becomes of heads that are off.
    """
    gain = float(run.gain[:FEW].mean())
    if not levels or gain <= 0:
        return
    sets = list(dict.fromkeys(map(tuple, filter(None, levels.values()))))
    lost: dict[tuple[Head, ...], float] = {}
    if sets:
        rises = run.rises(model, sets, replacement, 0, min(FEW, len(run.gain)))
        lost = {some: float(rise.mean()) / gain for some, rise in zip(sets, rises)}
    result.tables["thresholds"] = [
        {"threshold": level, "heads": len(heads), "copying_lost": lost.get(tuple(heads), 0.0)}
        for level, heads in levels.items()
    ]


def name_minimal_set(
    result: Measurement, model: Model, settings: Settings, context: Context
) -> None:
    """Where the chosen heads carry little of copying, name a smallest set that keeps it.

    Heads that others stand in for when they are off look idle in an ablation; alone, with every
    other head off, they show what they can do.

    Args:
        result: the measurement; a remark and the table `minimal_set` are added.
        model: the model.
        settings: which sequences.
        context: progress.
    """
    from icl_bench.measures.tokens import draw_repeated
    from icl_bench.probes.ablations.minimal_set import find_minimal_set
    from icl_bench.probes.design.replacement import HeldOut, prepare_replacement

    lost = result.metrics.get("copying_lost")
    if lost is None or lost.value > LOST or settings.keep_only:
        return
    tokens = draw_repeated(
        model.pool(settings.token_pool),
        sequences=FEW,
        period=settings.period,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
    )
    held_out = HeldOut.like(model, settings, tokens.input_ids.shape[1], FEW)
    prepared = prepare_replacement(model, "mean", model.every_head, held_out)
    try:
        found = find_minimal_set(model, tokens, KEPT, prepared.replacement, context)
    except NotMeasurable:
        return
    kept = [{"layer": layer, "head": head} for layer, head in sorted(found.kept)]
    result.tables["minimal_set"] = kept
    told = f"heads {list_heads(kept)}" if kept else "no heads at all"
    result.remarks["copying_lost"] = (
        f"{told} alone keep {KEPT:.0%} of copying with all others off, so what is switched off is "
        "repaired by others, or copying goes another way"
    )
