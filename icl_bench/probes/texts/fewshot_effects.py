"""What the gain from examples loses with heads off, beside random heads: part of `fewshot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import SIGNED, UNIT, Bounds
from icl_bench.probes.protocol import MetricInfo
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.measures.null import HeadSet
    from icl_bench.probes.texts.fewshot import Settings
    from icl_bench.probes.texts.fewshot_runs import Answers, ByShots, HeadSets

What = Literal["right", "first"]
"""Judged by the choices, or by the first token."""
Rows = list[dict[str, Any]]
GAIN_LOST: Bounds = (-2.0, 2.0)
"""A gain is a difference of two answers, right (1) or wrong (0), and this one of two gains."""
P_VALUES = ("null_p_value", "null_first_token_p_value")
NULL_METRICS = (*P_VALUES, "null_observed_lost", "null_median_lost", "null_max_lost")
UNIFORM_METRICS = ("uniform_median_lost", "uniform_max_lost")

HEAD_METRICS: dict[str, MetricInfo] = {
    "heads": MetricInfo("number of heads switched off", None, "heads", True),
    "accuracy_ablated": MetricInfo(
        "accuracy at the most shots, heads off", None, "ratio", bounds=UNIT
    ),
    "accuracy_0_ablated": MetricInfo("accuracy at 0 shots, heads off", None, "ratio", bounds=UNIT),
    "gain_ablated": MetricInfo("fewshot_gain with the heads off", None, "ratio", bounds=SIGNED),
    "gain_lost": MetricInfo("fewshot_gain minus gain_ablated", "up", "ratio", bounds=GAIN_LOST),
    "first_token_gain_lost": MetricInfo(
        "first_token_gain minus the same with the heads off", "up", "ratio", bounds=GAIN_LOST
    ),
    "gain_lost_these_tasks": MetricInfo(
        "gain_lost, its interval for other queries of these tasks only", "up", "ratio"
    ),
    "first_token_gain_lost_these_tasks": MetricInfo(
        "first_token_gain_lost, its interval for other queries of these tasks only", "up", "ratio"
    ),
    "null_p_value": MetricInfo(
        "p-value of gain_lost against layer-matched random heads", "down", "probability", True
    ),
    "null_first_token_p_value": MetricInfo(
        "p-value of first_token_gain_lost against the same heads", "down", "probability", True
    ),
    "null_observed_lost": MetricInfo(
        "gain_lost of the chosen heads on the null's queries", "up", "ratio", True
    ),
    "null_median_lost": MetricInfo("median gain_lost of the null", None, "ratio", True),
    "null_max_lost": MetricInfo("largest gain_lost of the null", None, "ratio", True),
    "uniform_median_lost": MetricInfo(
        "median gain_lost of random heads of any layer", None, "ratio", True
    ),
    "uniform_max_lost": MetricInfo(
        "largest gain_lost of random heads of any layer", None, "ratio", True
    ),
}
"""Metrics that need heads."""


def over_tasks(samples: Sequence[np.ndarray], bounds: Bounds) -> Metric:
    """Mean over tasks of the mean over their queries, with its interval.

    With several tasks they are the independent samples, and the interval is for other tasks like
    these; with one, its queries are, and the interval is for other items of that task.

    Args:
        samples: for each task, one value per query.
        bounds: lowest and highest value of one query.
    """
    from icl_bench.measures.statistics import mean_metric

    if len(samples) == 1:
        return mean_metric(samples[0], bounds=bounds)
    return mean_metric([float(values.mean()) for values in samples], bounds=bounds)


def report_within_tasks(
    result: Measurement, name: str, samples: Sequence[np.ndarray], bounds: Bounds
) -> None:
    """Add the metric `name`_these_tasks, whose interval is for other queries of the same tasks.

    Args:
        result: gets the metric, or the reason why there is none.
        name: of the metric whose interval is for other tasks like these.
        samples: for each task, one value per query.
        bounds: lowest and highest value of one query.
    """
    from icl_bench.measures.strata import stratified_metric

    try:
        result.metrics[f"{name}_these_tasks"] = stratified_metric(samples, bounds)
    except NotMeasurable as error:
        result.unmeasured[f"{name}_these_tasks"] = str(error)


def gains(runs: Sequence[ByShots], most: int, what: What) -> list[np.ndarray]:
    """For each task: right at the most shots minus right at 0, one value per query."""
    return [getattr(run[most], what) - getattr(run[0], what) for run in runs]


@dataclass(frozen=True)
class _Losses:
    """What the gain loses with sets of heads off.

    Args:
        found: the answers to every task's queries.
        most: number of shots that is compared with 0.
        null_queries: queries of a task that random sets were measured on, its first.
    """

    found: Sequence[Answers]
    most: int
    null_queries: int

    @property
    def chosen(self) -> list[ByShots]:
        """Each task's answers with the chosen heads off."""
        return [one.chosen for one in self.found]

    def by_query(
        self, ablated: Sequence[ByShots], what: What, count: int | None = None
    ) -> list[np.ndarray]:
        """For each task: clean gain minus ablated gain, one value per query.

        Args:
            ablated: answers of each task with heads off.
            what: which of the two judgements.
            count: take the first queries only, as many as this.
        """
        clean = gains([one.clean for one in self.found], self.most, what)
        pairs = zip(clean, gains(ablated, self.most, what))
        return [before[:count] - after[:count] for before, after in pairs]

    def on_null(self, ablated: Sequence[ByShots], what: What) -> float:
        """Mean over tasks of the loss on the queries that random sets were measured on."""
        losses = self.by_query(ablated, what, self.null_queries)
        return float(np.mean([one.mean() for one in losses]))

    def rows(self, kind: Literal["matched", "uniform"], drawn: Sequence[HeadSet]) -> Rows:
        """Return one row for each random set, in the order in which they were drawn."""
        rows = []
        for place, some in enumerate(drawn):
            runs = [getattr(one, kind)[place] for one in self.found]
            rows.append(
                {
                    "draw": place,
                    "heads": " ".join(f"{layer}.{head}" for layer, head in some),
                    "gain_lost": self.on_null(runs, "right"),
                    "first_token_gain_lost": self.on_null(runs, "first"),
                }
            )
        return rows


def report_effects(
    result: Measurement, settings: Settings, sets: HeadSets, found: Sequence[Answers]
) -> None:
    """Add the metrics that need heads, and the tables of random sets.

    Args:
        result: gets metrics, reasons and tables.
        settings: the suite's.
        sets: what was switched off.
        found: the answers to every task's queries.
    """
    from icl_bench.measures.statistics import exact_metric

    heads = [{"layer": layer, "head": head} for layer, head in sets.chosen]
    result.tables["ablated_heads"] = heads
    result.metrics["heads"] = exact_metric(len(heads))
    if not heads:
        _report_nothing(result)
        return
    queries = min(settings.null_queries, settings.queries)
    losses = _Losses(found, settings.shots[-1], queries)
    _report_chosen(result, losses)
    _compare_with_matched(result, settings, sets, losses)
    _describe_uniform(result, sets, losses)


def _report_nothing(result: Measurement) -> None:
    """No head is to be switched off: what an empty ablation changes needs no measuring."""
    from icl_bench.measures.statistics import exact_metric

    result.reason = "no head qualifies: nothing was switched off"
    result.metrics |= {
        "gain_ablated": result.metrics["fewshot_gain"].model_copy(),
        "gain_lost": exact_metric(0),
        "first_token_gain_lost": exact_metric(0),
        "gain_lost_these_tasks": exact_metric(0),
        "first_token_gain_lost_these_tasks": exact_metric(0),
    }
    left = HEAD_METRICS.keys() - result.metrics.keys()
    result.unmeasured |= dict.fromkeys(sorted(left), result.reason)


def _report_chosen(result: Measurement, losses: _Losses) -> None:
    """Add accuracy and gain with the chosen heads off, and what the gain loses."""
    most, ablated = losses.most, losses.chosen
    result.metrics |= {
        "accuracy_ablated": over_tasks([run[most].right for run in ablated], UNIT),
        "accuracy_0_ablated": over_tasks([run[0].right for run in ablated], UNIT),
        "gain_ablated": over_tasks(gains(ablated, most, "right"), SIGNED),
    }
    judgements: dict[str, What] = {"gain_lost": "right", "first_token_gain_lost": "first"}
    for name, what in judgements.items():
        samples = losses.by_query(ablated, what)
        result.metrics[name] = over_tasks(samples, GAIN_LOST)
        report_within_tasks(result, name, samples, GAIN_LOST)


def _compare_with_matched(
    result: Measurement, settings: Settings, sets: HeadSets, losses: _Losses
) -> None:
    """Rank what the chosen heads do among layer-matched random sets."""
    from icl_bench.measures.statistics import exact_metric, monte_carlo_p

    if not sets.matched:
        why = (
            "null_draws: 0 in the suite"
            if settings.null_draws == 0
            else "the layers of the chosen heads have too few other heads to compare with"
        )
        result.unmeasured |= dict.fromkeys(NULL_METRICS, why)
        return
    result.tables["null"] = rows = losses.rows("matched", sets.matched)
    null = [row["gain_lost"] for row in rows]
    observed = losses.on_null(losses.chosen, "right")
    result.metrics |= {
        "null_observed_lost": exact_metric(observed, losses.null_queries * len(losses.found)),
        "null_median_lost": exact_metric(float(np.median(null)), len(null)),
        "null_max_lost": exact_metric(max(null), len(null)),
    }
    if sets.p_min > settings.alpha:
        why = (
            f"only {len(null)} sets were drawn, so the smallest possible p-value is "
            f"{sets.p_min:.3g}; the null's largest loss of gain is {max(null):.3g}, the chosen "
            f"heads' is {observed:.3g}"
        )
        result.unmeasured |= dict.fromkeys(P_VALUES, why)
    else:
        first = [row["first_token_gain_lost"] for row in rows]
        observed_first = losses.on_null(losses.chosen, "first")
        p_values = (monte_carlo_p(observed, null), monte_carlo_p(observed_first, first))
        for name, p in zip(P_VALUES, p_values):
            result.metrics[name] = exact_metric(p, len(null))
    if sets.radius:
        result.reason = f"null heads come from up to {sets.radius} layers away"


def _describe_uniform(result: Measurement, sets: HeadSets, losses: _Losses) -> None:
    """Add what random heads of any layer do."""
    from icl_bench.measures.statistics import exact_metric

    if not sets.uniform:
        result.unmeasured |= dict.fromkeys(UNIFORM_METRICS, "uniform_draws: 0 in the suite")
        return
    result.tables["uniform_null"] = rows = losses.rows("uniform", sets.uniform)
    lost = [row["gain_lost"] for row in rows]
    result.metrics |= {
        "uniform_median_lost": exact_metric(float(np.median(lost)), len(lost)),
        "uniform_max_lost": exact_metric(max(lost), len(lost)),
    }
