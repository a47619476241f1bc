"""Places of a model that can be restored from another one, and what restoring them brings back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["embedding", "layer", "attention", "mlp", "head", "unembedding"]


@dataclass(frozen=True)
class Place:
    """A part of a model with parameters of its own.

    Args:
        kind: `unembedding` is the final norm with the output matrix.
        layer: which layer; None for the embedding and the unembedding.
        head: number of the head in the layer; None for everything else.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """In words: `head 1.0`, `layer 3`, `the MLP of layer 3`."""
        return {
            "embedding": "the embedding",
            "layer": f"layer {self.layer}",
            "attention": f"the attention of layer {self.layer}",
            "mlp": f"the MLP of layer {self.layer}",
            "head": f"head {self.layer}.{self.head}",
            "unembedding": "the final norm and the unembedding",
        }[self.kind]


@dataclass(frozen=True)
class Restored:
    """What comes back when one place of B gets the parameters that it has in A.

    Args:
        place: which.
        share: of the loss that B has more than A, the share that goes; 1 is all of it.
        ci_low: lower end of its interval, which holds for all places together; None for one
            sample.
        ci_high: upper end.
        n: sequences.
        differs: whether B's losses change at all, beyond rounding: where the place is the same in
            both models they do not.
    """

    place: Place
    share: float
    ci_low: float | None
    ci_high: float | None
    n: int
    differs: bool = True


NEARLY = 0.9
"""A narrower place explains its layer if it brings back this share of what that does."""


@dataclass(frozen=True)
class Cause:
    """The place that explains most.

    Args:
        restored: the place that is named.
        mostly: of a layer, the head, attention or MLP in it that brings back about as much,
            although others of the layer differ too; None where there is none.
    """

    restored: Restored
    mostly: Restored | None = None


def find_cause(restored: Sequence[Restored]) -> Cause | None:
    """Return the place that brings most back, the narrowest that holds all that differs there.

    Args:
        restored: of all places that were tried.

    Returns:
        None where no place surely brings something back.
    """
    sure = [one for one in restored if one.share > 0 and (one.ci_low is None or one.ci_low > 0)]
    wide = [one for one in sure if one.place.kind in ("embedding", "layer", "unembedding")]
    if not wide:
        return None
    best = max(wide, key=lambda one: one.share)
    layer = best.place.layer
    inside = [one for one in restored if one.place.kind != "layer" and one.place.layer == layer]
    if layer is None or not inside:
        return Cause(best)
    for kinds in (("head",), ("mlp", "attention")):
        found = [one for one in inside if one in sure and one.place.kind in kinds]
        narrow = max(found, key=lambda one: one.share, default=None)
        if narrow is None or narrow.share < NEARLY * best.share:
            continue
        others = [one for one in inside if one != narrow and not _holds(one.place, narrow.place)]
        return Cause(best, narrow) if any(one.differs for one in others) else Cause(narrow)
    return Cause(best)


def _holds(place: Place, other: Place) -> bool:
    """Whether one is the attention of which the other is a head, or the other way round."""
    return {place.kind, other.kind} == {"attention", "head"}
