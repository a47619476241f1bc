"""The null of the `ablation` probe: random heads switched off the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icl_bench.probes.design.context import Context
from icl_bench.records.record import Measurement

if TYPE_CHECKING:
    from icl_bench.measures import null
    from icl_bench.measures.copying import CopyLosses
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.ablation import Settings

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
    from icl_bench.measures import null

    sets = null.uniform_sets(heads, model.heads, settings.uniform_draws, settings.seed)
    if settings.null_draws:
        drawn = null.matched_sets(
            heads, model.heads, settings.null_draws, settings.alpha, settings.seed
        )
        sets = [*sets, *drawn.sets]
    return sorted({head for some in sets for head in some})


def compare_with_null(
    result: Measurement,
    model: Model,
    settings: Settings,
    context: Context,
    tokens: RepeatedTokens,
    heads: list[Head],
    replacement: Replacement,
    run: BaseRun,
    clean: CopyLosses,
    ablated: CopyLosses,
) -> None:
    """Ablate random sets the same way and rank the chosen heads' damage among theirs."""
    from icl_bench.measures import null
    from icl_bench.measures.copying import repeated_targets
    from icl_bench.measures.statistics import exact_metric, monte_carlo_p
    from icl_bench.models.circuits.interventions import switch_off

    count = min(settings.null_sequences, settings.sequences)
    few = run.part(0, count)
    base = float(clean.repeated[:count].mean())
    observed = float(ablated.repeated[:count].mean())

    def damage(sets: list[null.HeadSet], what: str) -> np.ndarray:
        with context.task(what, len(sets) * count) as advance:
            losses = switch_off(
                model,
                few,
                sets,
                replacement,
                targets=repeated_targets(tokens),
                advance=advance,
            )
        return np.asarray(losses.nll.double().numpy().mean(axis=(1, 2)))

    def tabulate(name: str, sets: list[null.HeadSet], losses: np.ndarray) -> np.ndarray:
        result.tables[name] = [
            {
                "draw": index,
                "heads": " ".join(f"{layer}.{head}" for layer, head in some),
                "chosen": len(set(some) & set(heads)),
                "repeated_loss": float(loss),
                "loss_ratio": float(loss) / base,
            }
            for index, (some, loss) in enumerate(zip(sets, losses))
        ]
        return losses / base

    names = NULL_METRICS
    if base <= 0:
        why = "the clean loss on repeats is 0: nothing to divide by"
        result.unmeasured |= dict.fromkeys((*NULL_METRICS, *UNIFORM_METRICS), why)
        return
    if settings.null_draws == 0:
        result.unmeasured |= dict.fromkeys(names, "null_draws: 0 in the suite")
    else:
        drawn = null.matched_sets(
            heads, model.heads, settings.null_draws, settings.alpha, settings.seed
        )
        if not drawn.sets:
            why = "the layers of the chosen heads have too few other heads to compare with"
            result.unmeasured |= dict.fromkeys(names, why)
        else:
            losses = damage(drawn.sets, "layer-matched random heads")
            ratios = tabulate("null", drawn.sets, losses)
            result.metrics["null_observed_ratio"] = exact_metric(observed / base, count)
            result.metrics["null_median_ratio"] = exact_metric(np.median(ratios), len(ratios))
            result.metrics["null_max_ratio"] = exact_metric(ratios.max(), len(ratios))
            if drawn.p_min > settings.alpha:
                result.unmeasured["null_p_value"] = (
                    f"only {len(drawn.sets)} distinct layer-matched sets exist, so the smallest "
                    f"possible p-value is {drawn.p_min:.3g}; the null's largest loss ratio is "
                    f"{ratios.max():.3g}, the chosen heads' is {observed / base:.3g}"
                )
            else:
                p = monte_carlo_p(observed, losses.tolist())
                result.metrics["null_p_value"] = exact_metric(p, len(losses))
            if drawn.radius:
                result.reason = f"null heads come from up to {drawn.radius} layers away"
    sets = null.uniform_sets(heads, model.heads, settings.uniform_draws, settings.seed)
    if sets:
        ratios = tabulate("uniform_null", sets, damage(sets, "random heads of any layer"))
        result.metrics["uniform_median_ratio"] = exact_metric(np.median(ratios), len(ratios))
        result.metrics["uniform_max_ratio"] = exact_metric(ratios.max(), len(ratios))
    else:
        why = "uniform_draws: 0 in the suite"
        result.unmeasured |= dict.fromkeys(UNIFORM_METRICS, why)
