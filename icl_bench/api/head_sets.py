"""A set of heads that was found, with what it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from icl_bench.models.attention.ablation import Head

if TYPE_CHECKING:
    import pandas as pd


class MinimalSet(list[Head]):
    """Heads as (layer, head), most needed first, and what they keep on their own.

    Args:
        heads: the set.
        share: share of the gain from repetition that the loss on repeats keeps with every other
            head off, on the sequences that the set was chosen on; on others it is lower.
        curve: the same for sets of other sizes, in the order of need: heads, share, repeated_loss
            (nats).
    """

    def __init__(self, heads: Iterable[Head], share: float, curve: pd.DataFrame) -> None:
        super().__init__(heads)
        self.share, self.curve = share, curve

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:12])) + (", ..." if len(self) > 12 else "")
        return f"MinimalSet([{shown}], share={self.share:.3f})"

    def _repr_html_(self) -> str:
        heads = ", ".join(f"{layer}.{head}" for layer, head in self[:60])
        curve: str = self.curve.to_html(index=False, float_format="{:.3f}".format)
        return f"<p>{len(self)} heads keep {self.share:.1%}: {heads}</p>{curve}"
