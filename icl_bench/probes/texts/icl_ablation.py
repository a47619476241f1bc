"""The `icl_score` probe with heads off: what natural text loses, beside random heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.texts.text_rows import tabulate_positions
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.null import NullSets
    from icl_bench.measures.positions import PositionLosses, Windows
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.design.replacement import Prepared
    from icl_bench.probes.texts.icl_settings import Settings

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


@dataclass(frozen=True)
class CleanText:
    """A text, and what the model loses on it with every head on.

    Args:
        windows: the text.
        run: the clean run of the windows, every token but the first a target.
        losses: its losses by document.
    """

    windows: Windows
    run: BaseRun
    losses: PositionLosses

    def first(self, documents: int) -> CleanText:
        """Return the same of the first documents."""
        from icl_bench.measures.positions import average_windows

        few = self.run.part(0, self.windows.of_first(documents))
        return CleanText(self.windows, few, average_windows(self.windows, few.losses.nll))

    def without(
        self,
        model: Model,
        sets: Sequence[Sequence[Head]],
        replacement: Replacement,
        context: Context,
        title: str,
    ) -> list[PositionLosses]:
        """Return the losses by document with each set of heads off.

        Args:
            model: the model.
            sets: sets of heads.
            replacement: what becomes of heads that are off.
            context: progress.
            title: what progress is shown under.
        """
        from icl_bench.measures.positions import average_windows
        from icl_bench.models.circuits.interventions import switch_off

        with context.task(title, len(sets) * len(self.run.input_ids)) as advance:
            off = switch_off(model, self.run, sets, replacement, advance=advance)
        return [average_windows(self.windows, nll) for nll in off.nll]


def ablate(
    result: Measurement,
    model: Model,
    settings: Settings,
    context: Context,
    text: CleanText,
    held_out: Windows | None,
) -> list[Tensor]:
    """Switch the chosen heads off on the same windows, and add what changes to `result`.

    Args:
        result: the measurement so far.
        model: the model.
        settings: which heads, and how.
        context: the measurement that heads are chosen from, and progress.
        text: the clean run.
        held_out: windows of other documents, for means and samples; None when there are none.

    Returns:
        further token ids that went through the model.

    Raises:
        NotMeasurable: patterns cannot be frozen here, or no document is left to be held out.
        MeasurementError: a head does not exist.
    """
    from icl_bench.models.circuits.interventions import require_support
    from icl_bench.probes.design.head_selection import choose_heads, explain_empty

    heads = choose_heads(model, settings, context.upstream)
    result.tables["ablated_heads"] = [{"layer": layer, "head": head} for layer, head in heads]
    if not heads:
        _report_nothing(result, explain_empty(settings.heads))
        return []
    null = _draw_null(model, settings, heads)
    prepared = _prepare(model, settings, [heads, *null.sets], held_out)
    require_support(model, prepared.replacement)
    replacement = prepared.replacement
    [ablated] = text.without(model, [heads], replacement, context, "losses on text, heads off")
    _compare(result, heads, text.losses, ablated, settings.confidence)
    rows = zip(result.tables["positions"], tabulate_positions(ablated, "_ablated"))
    result.tables["positions"] = [row | more for row, more in rows]
    if not null.sets:
        why = (
            "null_draws: 0 in the suite"
            if settings.null_draws == 0
            else "the layers of the chosen heads have too few other heads to compare with"
        )
        result.unmeasured |= dict.fromkeys(NULL_METRICS, why)
        return prepared.batches
    few = text.first(min(settings.null_documents, len(ablated.losses)))
    title = "layer-matched random heads on text"
    random = few.without(model, null.sets, replacement, context, title)
    found = _Ranked(few.losses, ablated, random)
    _compare_with_null(result, heads, null, found, settings.alpha)
    return prepared.batches


def _draw_null(model: Model, settings: Settings, heads: list[Head]) -> NullSets:
    from icl_bench.measures.null import NullSets, matched_sets

    draws = settings.null_draws
    if not draws:
        return NullSets([], 0)
    return matched_sets(heads, model.heads, draws, settings.alpha, settings.seed)


def _prepare(
    model: Model,
    settings: Settings,
    sets: Sequence[Sequence[Head]],
    held_out: Windows | None,
) -> Prepared:
    """Return what stands in for the heads of some sets: random ones may be of other layers."""
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.probes.design.replacement import Prepared, replace_from

    if settings.method not in ("mean", "resample"):
        return Prepared(Replacement(frozen=settings.method == "pattern_preserving"))
    if held_out is None:
        raise NotMeasurable(
            f"method {settings.method} needs documents that are not measured: give more text, "
            "fewer 'documents', or method: zero"
        )
    heads = [head for some in sets for head in some]
    return replace_from(model, settings.method, heads, held_out.input_ids, held_out.prefix)


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


class _Ranked:
    """What the chosen heads and random sets do to the text on the null's documents.

    Args:
        clean: losses with every head on.
        ablated: losses with the chosen heads off, of these documents and maybe more.
        random: losses with each random set off.

    Attributes:
        documents: number of documents.
        score: the clean windowed ICL score, nats.
        rise: of this score by the chosen heads, nats.
        rises: of this score by each random set, nats, (sets,).
        delta: rise of the loss by the chosen heads, nats.
        deltas: rise of the loss by each random set, nats, (sets,).
    """

    def __init__(
        self, clean: PositionLosses, ablated: PositionLosses, random: Sequence[PositionLosses]
    ) -> None:
        count = self.documents = len(clean.losses)
        self.score, text = float(clean.icl_score_windowed.mean()), float(clean.mean.mean())
        scores = np.array([float(one.icl_score_windowed.mean()) for one in random])
        texts = np.array([float(one.mean.mean()) for one in random])
        self.rises, self.deltas = scores - self.score, texts - text
        self.rise = float(ablated.icl_score_windowed[:count].mean()) - self.score
        self.delta = float(ablated.mean[:count].mean()) - text


def _compare_with_null(
    result: Measurement, heads: list[Head], null: NullSets, found: _Ranked, alpha: float
) -> None:
    """Rank the chosen heads' damage among that of random sets."""
    from icl_bench.measures.statistics import exact_metric, monte_carlo_p

    result.tables["null"] = [
        {
            "draw": index,
            "heads": " ".join(f"{layer}.{head}" for layer, head in some),
            "chosen": len(set(some) & set(heads)),
            "text_delta": float(found.deltas[index]),
            "icl_score_delta": float(found.rises[index]),
        }
        for index, some in enumerate(null.sets)
    ]
    draws, count, score = len(null.sets), found.documents, found.score
    rise, rises, delta, deltas = found.rise, found.rises, found.delta, found.deltas
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
    if null.p_min > alpha:
        why = (
            f"only {draws} distinct layer-matched sets exist, so the smallest possible p-value is "
            f"{null.p_min:.3g}"
        )
        result.unmeasured |= dict.fromkeys(("null_p_value", "null_p_value_loss"), why)
    else:
        result.metrics |= {
            "null_p_value": exact_metric(monte_carlo_p(rise, rises.tolist()), draws),
            "null_p_value_loss": exact_metric(monte_carlo_p(delta, deltas.tolist()), draws),
        }
    if null.radius:
        result.reason = f"null heads come from up to {null.radius} layers away"
