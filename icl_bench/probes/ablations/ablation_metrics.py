"""What the probe `ablation` reports of losses with parts off and without."""

from __future__ import annotations

import numpy as np

from icl_bench.measures import statistics as st
from icl_bench.measures.bounds import UNIT, Bounds
from icl_bench.measures.copying import CopyLosses
from icl_bench.probes.ablations.copy_runs import RepeatedRun, VariedRun
from icl_bench.records.parts import Measurement, Metric

NOTHING = (
    "loss_ratio",
    "copying_lost",
    "copying_lost_varied",
    "icl_share",
    "delta_first",
    "delta_repeated",
)
"""What an ablation of nothing changes: known without measuring."""


def report_clean(result: Measurement, heads: int, clean: CopyLosses, confidence: float) -> None:
    """Report how many heads are off, and the losses of the model as it is.

    Args:
        result: the measurement; metrics are added.
        heads: their number.
        clean: the losses.
        confidence: of each interval.
    """
    result.metrics |= {
        "heads": st.exact_metric(heads),
        "first_loss": st.mean_metric(clean.first, confidence=confidence),
        "repeated_loss": st.mean_metric(clean.repeated, confidence=confidence),
        "gain": st.mean_metric(clean.gain, confidence=confidence),
        "copy_accuracy": st.mean_metric(clean.accuracy, bounds=UNIT, confidence=confidence),
    }


def report_nothing(result: Measurement, why: str) -> None:
    """Report that nothing was switched off: no check passes by what that changes.

    Args:
        result: the measurement.
        why: why nothing was.
    """
    result.reason = why
    for name in NOTHING:
        result.metrics[name] = st.exact_metric(1 if name == "loss_ratio" else 0)
        result.vacuous[name] = why


def report_ablated(
    result: Measurement, run: RepeatedRun, off: CopyLosses, confidence: float
) -> None:
    """Report what the losses are with parts off, and what that says.

    Args:
        result: the measurement; metrics are added.
        run: the clean run.
        off: the losses with the parts off.
        confidence: of each interval.
    """

    def mean(values: np.ndarray, bounds: Bounds | None = None) -> Metric:
        return st.mean_metric(values, bounds=bounds, confidence=confidence)

    clean, delta = run.losses, off.repeated - run.repeated
    result.metrics |= {
        "first_loss_ablated": mean(off.first),
        "repeated_loss_ablated": mean(off.repeated),
        "gain_ablated": mean(off.gain),
        "delta_first": mean(off.first - clean.first),
        "delta_repeated": mean(delta),
        "copy_accuracy_ablated": mean(off.accuracy, bounds=UNIT),
    }
    if clean.repeated.mean() > 0 and off.repeated.mean() > 0:
        result.metrics["loss_ratio"] = st.ratio_metric(
            off.repeated, clean.repeated, confidence=confidence
        )
    else:
        result.unmeasured["loss_ratio"] = "the clean loss on repeats is 0: nothing to divide by"
    gain = result.metrics["gain"].value
    if gain > 0:
        result.metrics["copying_lost"] = st.share_metric(delta, clean.gain, confidence=confidence)
        lost = clean.gain - off.gain
        result.metrics["icl_share"] = st.share_metric(lost, clean.gain, confidence=confidence)
    else:
        why = f"the clean model gains nothing from repetition (gain {gain:.3g} nats)"
        result.unmeasured |= {"copying_lost": why, "icl_share": why}


def report_varied(
    result: Measurement, run: VariedRun, rises: np.ndarray | None, confidence: float
) -> None:
    """Report how the model copies at varied distance, and what of it is lost with parts off.

    Args:
        result: the measurement; metrics are added.
        run: the clean run.
        rises: of the loss on the second copy, nats, shape (sequences,); None if nothing is off.
        confidence: of each interval.
    """
    gain = result.metrics["gain_varied"] = st.mean_metric(run.gain, confidence=confidence)
    if rises is None:
        return
    if gain.value > 0:
        lost = st.share_metric(rises, run.gain, confidence=confidence)
        result.metrics["copying_lost_varied"] = lost
    else:
        # Heads carry nothing of what is not there, and a model that copies at one distance alone
        # is not let off.
        result.metrics["copying_lost_varied"] = st.exact_metric(0)
        result.vacuous["copying_lost_varied"] = (
            f"the model copies at no other distance than {result.settings['period']}: at varied "
            f"distance repetition gains {gain.value:.3g} nats"
        )
