"""What heads read: queries, keys and values as linear maps of the normed residual stream.

The layer's own code makes them from residual streams that are chosen here, so no family's names
or layouts have to be known: neither which module norms the stream nor how projections are cut
into heads. Each stream is a sequence of one token. It stands at position 0, where a rotation by
position is none, and what is read is free of positions. The map is read off with an orthogonal
basis: half of what x gives minus what -x gives, so that biases drop out and come back on their
own. Streams of many sizes and means, drawn at random, tell what norm stands before it, and
whether there is such a map at all. Queries and keys that a norm of their own brings to one size
have one up to that size, which is read off by directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.partial_forward import Left, enter_layer, require_partial_forward
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.module.quantization import exact_layers
from icl_bench.models.residual.contributions import Wanted, run_clean

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Side = Literal["query", "key", "value"]
SIDES: tuple[Side, ...] = ("query", "key", "value")

WITHIN = 1e-4
"""How far a side may be from the map that was read, as a share of its size, in float32."""
WITHIN_HALF = 3e-2
SMALL = 1e-2
"""Size of the streams, beside 1, that tell a norm's epsilon."""
CHECKS = 12


@dataclass(frozen=True)
class InputNorm:
    """What a norm does to a residual stream before gain and bias.

    Args:
        scales: whether it divides by the stream's size; False where there is no norm.
        centres: whether it takes the mean off first.
        epsilon: what it adds to the mean square.
    """

    scales: bool = False
    centres: bool = False
    epsilon: float = 0.0

    @property
    def at_size_one(self) -> float:
        """What it divides a stream by whose mean square is 1."""
        return (1 + self.epsilon) ** 0.5 if self.scales else 1.0

    def apply(self, stream: Tensor) -> Tensor:
        """Return the normed stream, (..., width)."""
        if not self.scales:
            return stream
        if self.centres:
            stream = stream - stream.mean(-1, keepdim=True)
        return stream * (stream.pow(2).mean(-1, keepdim=True) + self.epsilon).rsqrt()


@dataclass
class Reading:
    """What the heads of one layer read.

    Args:
        layer: which layer.
        norm: what the maps are taken of.
        maps: side -> (heads, head width, residual width), float64; keys and values have a group's
            map for each of its query heads. Norm gain and centring are in them, biases are not.
        scaled: sides that a norm brings to one size: their maps have its gain, and are right up
            to a positive factor for each head.
        problems: side -> why it has no map.
    """

    layer: int
    norm: InputNorm
    maps: dict[Side, Tensor] = field(default_factory=dict)
    scaled: set[Side] = field(default_factory=set)
    problems: dict[Side, str] = field(default_factory=dict)

    def map_of(self, side: Side) -> Tensor:
        """Return the map of a side, or raise NotMeasurable with the reason."""
        if side not in self.maps:
            raise NotMeasurable(f"layer {self.layer}: {self.problems[side]}")
        return self.maps[side]


def read_layers(model: Model, layers: Iterable[int]) -> dict[int, Reading]:
    """Read the maps of queries, keys and values of some layers.

    Args:
        model: the model.
        layers: the layers, each with attention.

    Returns:
        layer -> what its heads read. Layers that agree on their norm share the same one.

    Raises:
        NotMeasurable: the model has no heads, its queries, keys and values cannot be had, or
            what the heads of a layer write is not known.
    """
    require_partial_forward(model, "read")
    wrapped = run_clean(model, torch.tensor([model.vocabulary[:1]]), Wanted()).wrapped
    readings: dict[int, Reading] = {}
    norms: list[InputNorm] = []
    for layer in layers:
        reader = _LayerReader(model, layer, wrapped)
        with exact_layers(model.anatomy.modules[layer], keep=True):
            reading = reader.read(norms)
        readings[layer] = reading
        if reading.norm not in norms:
            norms.append(reading.norm)
    return readings


class _LayerReader:
    """Reads one layer by what it makes of chosen residual streams."""

    def __init__(self, model: Model, layer: int, wrapped: bool) -> None:
        self.model, self.layer, self.wrapped = model, layer, wrapped
        model.anatomy.require_heads([layer])
        # Embeddings may be narrower than the residual stream.
        self.width = len(model.anatomy.layers[layer].output_matrix())
        self.dtype = model.embedding.dtype
        self.within = WITHIN if self.dtype in (torch.float32, torch.float64) else WITHIN_HALF
        self._beside: dict[Side, Tensor] | None = None

    def read(self, known: list[InputNorm]) -> Reading:
        """Return the layer's maps; norms that other layers have are tried first."""
        basis = _basis(self.width)
        size = self.width**0.5
        probes = basis * size
        plus, minus = self._attend(probes), self._attend(-probes)
        checks = _draw_checks(self.width)
        answers = self._attend(checks)
        odd = {side: (plus[side] - minus[side]) / 2 for side in SIDES}
        bias = {side: ((plus[side] + minus[side]) / 2).mean(0) for side in SIDES}
        maps = {side: odd[side].flatten(1).T @ basis / size for side in SIDES}
        moved = {side: answers[side] - bias[side] for side in SIDES}
        candidates = [*known, *self._guess_norms(moved)]

        def error(norm: InputNorm, side: Side) -> float:
            ours = norm.apply(checks) @ maps[side].T * norm.at_size_one
            theirs = moved[side].flatten(1)
            floor = 1e-20 + 1e-4 * float(bias[side].norm())
            return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp_min(floor)).max())

        # Values tell the norm; a norm over queries or keys would hide it.
        errors = [error(norm, "value") for norm in candidates]
        chosen = next((i for i, e in enumerate(errors) if e <= self.within), None)
        if chosen is None:
            chosen = min(range(len(errors)), key=errors.__getitem__)
        reading = Reading(self.layer, candidates[chosen])
        heads = self.model.heads[self.layer]
        for side in SIDES:
            off = error(reading.norm, side)
            own = (maps[side] * reading.norm.at_size_one).reshape(*odd[side].shape[1:], self.width)
            if not off <= self.within and side != "value":
                directions = self._read_directions(side, basis, plus[side])
                angle = _angle(reading.norm.apply(checks), directions, answers[side])
                if angle <= self.within:
                    own, off = directions, 0.0
                    reading.scaled.add(side)
            if off <= self.within:
                reading.maps[side] = own.repeat_interleave(heads // len(own), 0)
            else:
                reading.problems[side] = (
                    f"its {_PLURAL[side]} are not a linear map of the normed residual stream "
                    f"(off by {off:.2g})"
                )
        return reading

    def _read_directions(self, side: Side, basis: Tensor, read: Tensor) -> Tensor:
        """Return the map of queries or keys that a norm scales to one size, up to a factor.

        What basis vector i gives is a_i M b_i, with an unknown a_i > 0. What it gives beside
        another vector c is on the same plane as the two on their own, and its place there tells
        how large M b_i is, compared with M c.

        Args:
            side: query or key.
            basis: orthogonal, (width, width).
            read: what its rows give, (width, heads or groups, head width).
        """
        size = self.width**0.5
        if self._beside is None:
            draws = torch.Generator().manual_seed(1)
            anchor = torch.randn(1, self.width, generator=draws, dtype=torch.float64)
            anchor -= anchor.mean()
            anchor /= anchor.norm()
            self._beside = self._attend(
                torch.cat([anchor * size, (anchor + basis) * size / 2**0.5])
            )
        start, both = self._beside[side][:1], self._beside[side][1:]
        # both = alpha start + beta read, least squares in the width of a head.
        aa, ar, rr = (start**2).sum(-1), (start * read).sum(-1), (read**2).sum(-1)
        ba, br = (both * start).sum(-1), (both * read).sum(-1)
        alpha, beta = ba * rr - br * ar, br * aa - ba * ar
        # A vector that the norm before takes away gives nothing, and no plane.
        ratio = torch.where(rr > 1e-12 * aa, beta / alpha, 0.0)
        return torch.einsum("ihw,id->hwd", ratio[..., None] * read, basis)

    def _guess_norms(self, moved: dict[Side, Tensor]) -> list[InputNorm]:
        """Return no norm, and those whose epsilon fits how a small stream's values shrink."""
        large, small = (moved["value"][row].norm() for row in (0, 1))
        ratio = float(small / large.clamp_min(1e-30)) ** 2
        guesses = [InputNorm()]
        if ratio > 1.01 * SMALL**2:
            epsilon = max(0.0, SMALL**2 * (1 - ratio) / (ratio - SMALL**2))
            noise = SMALL**2 * (1e-5 if self.within == WITHIN else 1e-2)
            epsilon = 0.0 if epsilon < noise else float(f"{epsilon:.4g}")
            guesses += [InputNorm(True, False, epsilon), InputNorm(True, True, epsilon)]
        return guesses

    def _attend(self, streams: Tensor) -> dict[Side, Tensor]:
        """Return side -> (streams, heads or groups, width), float64, what the layer makes."""
        parts: dict[Side, list[Tensor]] = {side: [] for side in SIDES}

        def keep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> NoReturn:
            for side, tensor in zip(SIDES, (q, k, v)):
                parts[side].append(tensor[:, :, 0].double().cpu())
            raise Left

        for block in streams.split(self.model.limit.rows(1)):
            entering = block[:, None].to(self.model.runner.device, self.dtype)
            ids = torch.full((len(block), 1), self.model.vocabulary[0])
            stream = Stream(self.layer, entering, self.wrapped)
            enter_layer(self.model, ids, stream, ForwardHooks(swap=keep))
        made = {side: torch.cat(tensors) for side, tensors in parts.items()}
        # Families whose values are narrower than their keys fill up with zeros.
        made["value"] = made["value"][..., : self.model.shapes[self.layer][2]]
        return made


_PLURAL = {"query": "queries", "key": "keys", "value": "values"}


def _angle(normed: Tensor, maps: Tensor, theirs: Tensor) -> float:
    """Return the largest distance between directions of what a map gives and what was read."""
    ours = torch.einsum("nd,hwd->nhw", normed, maps)
    ours = ours / ours.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    theirs = theirs / theirs.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    return float((ours - theirs).norm(dim=-1).max())


def _basis(width: int) -> Tensor:
    """Return an orthogonal matrix whose first row is constant, all others being of mean 0."""
    mirror = torch.full((width,), -(width**-0.5), dtype=torch.float64)
    mirror[0] += 1
    basis = torch.eye(width, dtype=torch.float64)
    basis -= 2 / float(mirror @ mirror) * mirror[:, None] * mirror[None]
    basis[0] = width**-0.5
    return basis


def _draw_checks(width: int) -> Tensor:
    """Return streams (CHECKS, width): a centred one large and small, then all sizes and means."""
    draws = torch.Generator().manual_seed(0)
    streams = torch.randn(CHECKS, width, generator=draws, dtype=torch.float64)
    streams[:2] = streams[0] - streams[0].mean()
    streams[:2] /= streams[:2].pow(2).mean(-1, keepdim=True).sqrt()
    streams[1] *= SMALL
    for row in range(2, CHECKS):
        size = 10 ** (-1.5 + 3 * (row - 2) / (CHECKS - 3))
        streams[row] = size * (streams[row] + (row % 4) - 1.5)
    return streams
