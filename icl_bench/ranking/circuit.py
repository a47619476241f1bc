"""Which models have no circuit to rank: their chosen head does no better than even attention."""

from __future__ import annotations

from icl_bench.measures.statistics import student_t
from icl_bench.ranking.entries import Figure, Taken

PROBE = "induction"
SCORES = ("induction_max", "induction_varied_max", "induction_excess_max")
"""What is read of the chosen head: its score, that at varied distance, and its score minus the
positional control."""
RANKED = (*SCORES, "induction_all_max")
"""Metrics by which models without a circuit share a rank."""
LEAST = 0.02
"""So much better it has to be at least: what a comparison with a baseline ignores in a score."""
NO_CIRCUIT = "no circuit"
"""What that rank is called."""


def why_no_circuit(taken: Taken, metric: str) -> str | None:
    """Return why a model has no circuit to rank by an induction score; None where it has one.

    It has one where Student's interval (95%) of the chosen head's advantage lies above `LEAST`:
    over what even attention gives, at a fixed and at varied distance, and over the positional
    control, each as far as it was measured. A number without a standard error stands for itself.

    Args:
        taken: the measurement.
        metric: the metric that ranks.
    """
    if taken.probe != PROBE or metric not in RANKED:
        return None
    even = taken.figures.get("uniform_level")
    for name in SCORES:
        figure = taken.figures.get(name)
        over_control = name == "induction_excess_max"
        if figure is None or (even is None and not over_control):
            continue
        level = 0.0 if over_control or even is None else even.value
        low = _lower_end(figure) - level
        if low <= LEAST:
            what = "its positional control" if over_control else "even attention"
            return (
                f"{name} {figure.value:.3g} is better than {what} by {figure.value - level:.3g}, "
                f"perhaps only {low:.3g}; required is more than {LEAST}"
            )
    return None


def _lower_end(figure: Figure) -> float:
    if figure.stderr is None or figure.n is None or figure.n < 2:
        return figure.value
    return figure.value - student_t(figure.n - 1) * figure.stderr
