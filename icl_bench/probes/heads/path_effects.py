"""What receivers lose on one side of their input without each sender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from icl_bench.records.parts import Metric

if TYPE_CHECKING:
    from icl_bench.models.circuits.patching import PathEffect

Head = tuple[int, int]
Side = Literal["key", "query", "value"]
SIDES: tuple[Side, ...] = ("key", "query", "value")


class Ends(NamedTuple):
    """The heads at both ends of the paths."""

    receivers: list[Head]
    """Heads whose input is patched."""
    senders: list[Head]
    """Heads that are taken out of it, one at a time."""


class Drops:
    """What each receiver loses on one side without each sender.

    Args:
        ends: receivers and senders.
        effects: of this side, one a layer.

    Attributes:
        clean: (sequences, receivers).
        lost: (sequences, senders, receivers); 0 where the sender does not lie below.
    """

    def __init__(self, ends: Ends, effects: list[PathEffect]) -> None:
        receivers, senders = self.receivers, self.senders = ends
        sequences = len(effects[0].clean)
        self.clean = np.zeros((sequences, len(receivers)))
        self.lost = np.zeros((sequences, len(senders), len(receivers)))
        self.below = np.zeros((len(senders), len(receivers)), bool)
        columns = {head: column for column, head in enumerate(senders)}
        for effect in effects:
            drops = (effect.clean - effect.patched).double().numpy()
            own = [columns[heads[0]] for heads in effect.senders]
            for place, (layer, head) in enumerate(receivers):
                if layer == effect.layer:
                    self.clean[:, place] = effect.clean[:, head].double().numpy()
                    self.lost[:, own, place] = drops[:, :, head].T
                    self.below[own, place] = True

    def shares(self, feeder: int, confidence: float) -> list[Metric]:
        """Return what is lost, as shares of the whole, means over receivers.

        Args:
            feeder: number of the sender with the highest previous-token score.
            confidence: of the intervals.

        Returns:
            the share lost without the worst sender, chosen and read on different sequences;
            without the feeder; and the median over all senders but the worst, if there are any.
        """
        from icl_bench.measures import statistics as st

        lost, whole = self.lost.mean(2), self.clean.mean(1)
        parts = [st.cross_fitted_max(lost), lost[:, feeder]]
        others = np.delete(lost, int(lost.mean(0).argmax()), axis=1)
        if others.shape[1]:
            parts.append(np.median(others, axis=1))
        worst, *rest = (st.share_metric(part, whole, confidence=confidence) for part in parts)
        return [st.widen(worst, st.tie_width(lost)), *rest]

    def rows(self, side: Side, previous: np.ndarray) -> list[dict[str, Any]]:
        """One row for each sender below each receiver, with the sender's previous-token score."""
        clean, lost = self.clean.mean(0), self.lost.mean(0)
        count = len(self.lost)
        spread = None if count == 1 else self.lost.std(0, ddof=1) / count**0.5
        return [
            {
                "sender_layer": self.senders[one][0],
                "sender_head": self.senders[one][1],
                "layer": self.receivers[other][0],
                "head": self.receivers[other][1],
                "side": side,
                "clean": float(clean[other]),
                "patched": float(clean[other] - lost[one, other]),
                "drop": float(lost[one, other]),
                "drop_stderr": None if spread is None else float(spread[one, other]),
                "sender_previous_token": float(previous[one]),
            }
            for other in range(len(self.receivers))
            for one in np.flatnonzero(self.below[:, other])
        ]


def count_collapsed(
    clean: np.ndarray, lost: np.ndarray, threshold: float, confidence: float = 0.95
) -> Metric:
    """Number of receivers that lose more than half of their score without their worst sender.

    Args:
        clean: (sequences, receivers).
        lost: (sequences, senders, receivers).
        threshold: score that a receiver needs to count at all.
        confidence: of the interval.
    """
    from icl_bench.measures import statistics as st

    margins = -clean / 2
    for place in np.flatnonzero(clean.mean(0) > threshold):
        margins[:, place] += st.cross_fitted_max(lost[:, :, place])
    # A score and a drop of it lie in [0, 1] and [-1, 1], and what is left cannot be below 0.
    return st.count_above(margins, 0, bounds=(-1.0, 0.5), confidence=confidence)
