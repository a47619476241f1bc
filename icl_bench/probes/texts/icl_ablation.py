"""The `icl_score` probe with heads off: what natural text loses, beside random heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.texts.text_rows import tabulate_positions
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.positions import PositionLosses, Windows
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.texts.icl_score import Settings

Head = tuple[int, int]

P_VALUES = ("null_p_value", "null_p_value_loss")
NULL_METRICS = (
    *P_VALUES,
    *("null_observed_share", "null_median_share", "null_max_share"),
    *("null_observed_delta", "null_median_delta", "null_max_delta"),
)
ABLATED_METRICS = (
    "heads",
    "text_loss_ablated",
    "text_delta",
    "icl_score_windowed_ablated",
    "icl_score_delta",
    "icl_share_text",
    *NULL_METRICS,
)


def ablate(
    result: Measurement,
    model: Model,
    settings: Settings,
    context: Context,
    windows: Windows,
    held_out: Windows | None,
    run: BaseRun,
    clean: PositionLosses,
) -> list[Tensor]:
    """Switch the chosen heads off on the same windows, and add what changes to `result`.

    Args:
        result: the measurement so far.
        model: the model.
        settings: which heads, and how.
        context: the measurement that heads are chosen from, and progress.
        windows: the text.
        held_out: windows of other documents, for means and samples; None when there are none.
        run: the clean run of the windows, every token but the first a target.
        clean: its losses by document.

    Returns:
        further token ids that went through the model.

    Raises:
        NotMeasurable: patterns cannot be frozen here, or no document is left to be held out.
        MeasurementError: a head does not exist.
    """
    from icl_bench.measures.positions import average_windows
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.circuits.interventions import require_support, switch_off
    from icl_bench.probes.design.head_selection import choose_heads, explain_empty
    from icl_bench.probes.design.replacement import Prepared, replace_from

    heads = choose_heads(model, settings, context.upstream)
    result.tables["ablated_heads"] = [{"layer": layer, "head": head} for layer, head in heads]
    if not heads:
        _report_nothing(result, explain_empty(settings.heads))
        return []
    if settings.method in ("mean", "resample"):
        if held_out is None:
            raise NotMeasurable(
                f"method {settings.method} needs documents that are not measured: give more text, "
                "fewer 'documents', or method: zero"
            )
        # Random sets may have heads of other layers, which need their means as well.
        needed = [*heads, *(head for some in _draw_null(model, settings, heads) for head in some)]
        prepared = replace_from(model, settings.method, needed, held_out.input_ids, held_out.prefix)
    else:
        prepared = Prepared(Replacement(frozen=settings.method == "pattern_preserving"))
    require_support(model, prepared.replacement)
    with context.task("losses on text, heads off", len(windows.input_ids)) as advance:
        off = switch_off(model, run, [heads], prepared.replacement, advance=advance)
    ablated = average_windows(windows, off.nll[0])
    _compare(result, heads, clean, ablated, settings.confidence)
    rows = zip(result.tables["positions"], tabulate_positions(ablated, "_ablated"))
    result.tables["positions"] = [row | more for row, more in rows]
    if settings.null_draws == 0:
        result.unmeasured |= dict.fromkeys(NULL_METRICS, "null_draws: 0 in the suite")
    else:
        _compare_with_null(
            result, model, settings, context, windows, heads, prepared.replacement, run, ablated
        )
    return prepared.batches


def _draw_null(model: Model, settings: Settings, heads: list[Head]) -> list[tuple[Head, ...]]:
    from icl_bench.measures.null import matched_sets

    draws = settings.null_draws
    if not draws:
        return []
    return matched_sets(heads, model.heads, draws, settings.alpha, settings.seed).sets


def _report_nothing(result: Measurement, why: str) -> None:
    """No head is to be switched off: what an empty ablation changes needs no measuring."""
    from icl_bench.measures.statistics import exact_metric

    result.reason = why
    result.metrics |= {
        "heads": exact_metric(0),
        "text_loss_ablated": result.metrics["text_loss"],
        "text_delta": exact_metric(0),
        "icl_score_windowed_ablated": result.metrics["icl_score_windowed"],
        "icl_score_delta": exact_metric(0),
        "icl_share_text": exact_metric(0),
    }
    result.unmeasured |= dict.fromkeys(NULL_METRICS, why)


def _compare(
    result: Measurement,
    heads: list[Head],
    clean: PositionLosses,
    ablated: PositionLosses,
    confidence: float,
) -> None:
    from icl_bench.measures import statistics as st

    def mean(values: np.ndarray) -> Metric:
        return st.mean_metric(values, confidence=confidence)

    before, after = clean.icl_score_windowed, ablated.icl_score_windowed
    result.metrics |= {
        "heads": st.exact_metric(len(heads)),
        "text_loss_ablated": mean(ablated.mean),
        "text_delta": mean(ablated.mean - clean.mean),
        "icl_score_windowed_ablated": mean(after),
        "icl_score_delta": mean(after - before),
    }
    score = result.metrics["icl_score_windowed"]
    if (score.value if score.ci_high is None else score.ci_high) < 0:
        share = st.share_metric(after - before, -before, confidence=confidence)
        result.metrics["icl_share_text"] = share
    else:
        result.unmeasured["icl_share_text"] = (
            f"the clean windowed ICL score, {score.value:.3g} nats, is not told from 0: there is "
            "nothing to have a share in"
        )


def _compare_with_null(
    result: Measurement,
    model: Model,
    settings: Settings,
    context: Context,
    windows: Windows,
    heads: list[Head],
    replacement: Replacement,
    run: BaseRun,
    ablated: PositionLosses,
) -> None:
    """Switch random sets off on the first documents and rank the chosen heads' damage."""
    from icl_bench.measures import null
    from icl_bench.measures.positions import average_windows
    from icl_bench.measures.statistics import exact_metric, monte_carlo_p
    from icl_bench.models.circuits.interventions import switch_off

    drawn = null.matched_sets(
        heads, model.heads, settings.null_draws, settings.alpha, settings.seed
    )
    if not drawn.sets:
        why = "the layers of the chosen heads have too few other heads to compare with"
        result.unmeasured |= dict.fromkeys(NULL_METRICS, why)
        return
    count = min(settings.null_documents, len(ablated.losses))
    few = run.part(0, windows.of_first(count))
    rows = len(few.input_ids)
    with context.task("layer-matched random heads on text", len(drawn.sets) * rows) as advance:
        off = switch_off(model, few, drawn.sets, replacement, advance=advance)
    clean = average_windows(windows, few.losses.nll)
    losses = [average_windows(windows, nll) for nll in off.nll]
    score, text = float(clean.icl_score_windowed.mean()), float(clean.mean.mean())
    rises = np.array([float(one.icl_score_windowed.mean()) for one in losses]) - score
    deltas = np.array([float(one.mean.mean()) for one in losses]) - text
    rise = float(ablated.icl_score_windowed[:count].mean()) - score
    delta = float(ablated.mean[:count].mean()) - text
    result.tables["null"] = [
        {
            "draw": index,
            "heads": " ".join(f"{layer}.{head}" for layer, head in some),
            "chosen": len(set(some) & set(heads)),
            "text_delta": float(deltas[index]),
            "icl_score_delta": float(rises[index]),
        }
        for index, some in enumerate(drawn.sets)
    ]
    draws = len(drawn.sets)
    result.metrics |= {
        "null_observed_delta": exact_metric(delta, count),
        "null_median_delta": exact_metric(np.median(deltas), draws),
        "null_max_delta": exact_metric(deltas.max(), draws),
    }
    if score < 0:
        result.metrics |= {
            "null_observed_share": exact_metric(rise / -score, count),
            "null_median_share": exact_metric(np.median(rises) / -score, draws),
            "null_max_share": exact_metric(rises.max() / -score, draws),
        }
    else:
        why = f"on the null's documents the windowed ICL score is {score:.3g} nats, not below 0"
        shares = [name for name in NULL_METRICS if name.endswith("_share")]
        result.unmeasured |= dict.fromkeys(shares, why)
    if drawn.p_min > settings.alpha:
        why = (
            f"only {draws} distinct layer-matched sets exist, so the smallest possible p-value is "
            f"{drawn.p_min:.3g}"
        )
        result.unmeasured |= dict.fromkeys(("null_p_value", "null_p_value_loss"), why)
    else:
        result.metrics |= {
            "null_p_value": exact_metric(monte_carlo_p(rise, rises.tolist()), draws),
            "null_p_value_loss": exact_metric(monte_carlo_p(delta, deltas.tolist()), draws),
        }
    if drawn.radius:
        result.reason = f"null heads come from up to {drawn.radius} layers away"
