"""The null of the `ablation` probe: random heads switched off the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icl_bench.measures import null
from icl_bench.measures.statistics import exact_metric, monte_carlo_p
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.measures.copying import CopyLosses
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.ablation import Settings
    from icl_bench.probes.ablations.case import Case
    from icl_bench.probes.ablations.copy_runs import RepeatedRun

Head = tuple[int, int]

NULL_METRICS = ("null_p_value", "null_observed_ratio", "null_median_ratio", "null_max_ratio")
UNIFORM_METRICS = ("uniform_median_ratio", "uniform_max_ratio")


def compared_heads(model: Model, settings: Settings, heads: list[Head]) -> list[Head]:
    """Return the heads of all random sets: what stands in for heads is needed for them too.

    Args:
        model: the model.
        settings: how many sets.
        heads: the chosen heads.
    """
    sets = null.uniform_sets(heads, model.heads, settings.uniform_draws, settings.seed)
    if settings.null_draws:
        drawn = null.matched_sets(
            heads, model.heads, settings.null_draws, settings.alpha, settings.seed
        )
        sets = [*sets, *drawn.sets]
    return sorted({head for some in sets for head in some})


def compare_with_null(result: Measurement, case: Case, run: RepeatedRun, off: CopyLosses) -> None:
    """Rank the chosen heads' damage among that of random sets of all heads.

    Args:
        result: the measurement; metrics and tables are added.
        case: what is off.
        run: the clean run.
        off: the losses with the chosen heads off.
    """
    settings = case.settings
    count = min(settings.null_sequences, settings.sequences)
    base = float(run.repeated[:count].mean())
    result.unmeasured |= dict.fromkeys(UNIFORM_METRICS, "uniform_draws: 0 in the suite")
    result.unmeasured |= dict.fromkeys(NULL_METRICS, "null_draws: 0 in the suite")
    if not settings.null_draws and not settings.uniform_draws:
        return
    if base <= 0:
        why = "the clean loss on repeats is 0: nothing to divide by"
        result.unmeasured |= dict.fromkeys((*NULL_METRICS, *UNIFORM_METRICS), why)
        return
    observed = float(off.repeated[:count].mean()) / base
    if settings.null_draws:
        _rank(result, case, run, observed, base)
    sets = null.uniform_sets(case.heads, case.model.heads, settings.uniform_draws, settings.seed)
    if sets:
        ratios = _ratios(result, case, run, base, "uniform_null", sets)
        _report(result, "uniform_median_ratio", np.median(ratios), len(ratios))
        _report(result, "uniform_max_ratio", ratios.max(), len(ratios))


def _rank(result: Measurement, case: Case, run: RepeatedRun, observed: float, base: float) -> None:
    """Report the p-value of the chosen heads' damage, where enough sets exist for one."""
    settings, heads = case.settings, case.model.heads
    drawn = null.matched_sets(case.heads, heads, settings.null_draws, settings.alpha, settings.seed)
    if not drawn.sets:
        why = "the layers of the chosen heads have too few other heads to compare with"
        result.unmeasured |= dict.fromkeys(NULL_METRICS, why)
        return
    ratios = _ratios(result, case, run, base, "null", drawn.sets)
    count = min(settings.null_sequences, settings.sequences)
    _report(result, "null_observed_ratio", observed, count)
    _report(result, "null_median_ratio", np.median(ratios), len(ratios))
    _report(result, "null_max_ratio", ratios.max(), len(ratios))
    if drawn.p_min > settings.alpha:
        result.unmeasured["null_p_value"] = (
            f"only {len(drawn.sets)} distinct layer-matched sets exist, so the smallest "
            f"possible p-value is {drawn.p_min:.3g}; the null's largest loss ratio is "
            f"{ratios.max():.3g}, the chosen heads' is {observed:.3g}"
        )
    else:
        p = monte_carlo_p(observed, ratios.tolist())
        _report(result, "null_p_value", p, len(ratios))
    if drawn.radius:
        result.reason = f"null heads come from up to {drawn.radius} layers away"


def _ratios(
    result: Measurement,
    case: Case,
    run: RepeatedRun,
    base: float,
    name: str,
    sets: list[null.HeadSet],
) -> np.ndarray:
    """Return the loss ratio of each set on the null's sequences; a table of them is added."""
    count = min(case.settings.null_sequences, case.settings.sequences)
    with case.context.task("random sets of heads", len(sets) * count) as advance:
        rises = run.rises(case.model, sets, case.replacement(run), 0, count, advance)
    losses = base + rises.mean(axis=1)
    result.tables[name] = [
        {
            "draw": index,
            "heads": " ".join(f"{layer}.{head}" for layer, head in some),
            "chosen": len(set(some) & set(case.heads)),
            "repeated_loss": float(loss),
            "loss_ratio": float(loss) / base,
        }
        for index, (some, loss) in enumerate(zip(sets, losses))
    ]
    return np.asarray(losses / base)


def _report(result: Measurement, name: str, value: float, n: int) -> None:
    result.metrics[name] = exact_metric(value, n)
    del result.unmeasured[name]
