"""Attention attribution: a head's attention logit as a sum over pairs of what wrote both sides.

The logit of query i and key j is q_i . k_j * scale. With norms frozen, the query is a sum over
the parts of the residual stream at i, the key over those at j: embedding, every head and MLP
below, biases. So the logit is a sum over pairs of parts. A softmax sees differences only;
therefore the logit of the target is taken minus the mean logit of the query's other visible keys,
in which whatever all keys share drops out.
Source: Kamath et al. 2025, "Tracing attention computation through feature interactions", with
components in the place of features; Elhage et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.ablation import Head
from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.partial_forward import require_partial_forward
from icl_bench.models.module.quantization import on_exact_layers
from icl_bench.models.residual.contributions import CleanRun, Wanted, run_clean
from icl_bench.models.residual.frozen import FrozenLayer

if TYPE_CHECKING:
    from icl_bench.models.model import Model

WITHIN = 1e-3
"""How far the sum of the parts may be from a logit, as a share of the largest that queries and
keys of this length could have."""
WITHIN_HALF = 5e-2
PART_BYTES = 256 * 2**20
"""Memory that the queries and keys of all parts may take."""


@dataclass(frozen=True)
class Source:
    """What wrote a part of the residual stream.

    Args:
        kind: `embedding` (tokens and positions), `head`, `mlp`, `layer` (one without heads, whole)
            or `bias` (of output projections, norms, query and key projections).
        layer: its layer, where it has one.
        head: its head, where it is one.
    """

    kind: Literal["embedding", "head", "mlp", "layer", "bias"]
    layer: int = -1
    head: int = -1

    @property
    def name(self) -> str:
        """`embedding`, `bias`, `mlp 3`, `layer 3`, and `3.1` for head 1 of layer 3."""
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return self.kind if self.layer < 0 else f"{self.kind} {self.layer}"


@dataclass
class AttentionParts:
    """The logit of the targets minus the mean of the other keys, for one head, and its parts.

    Args:
        head: the receiver.
        sources: what wrote the parts, the same on both sides.
        parts: (rows, key sources, query sources), means over the queries of each row, float32.
        mask: what is added to the logits beside queries and keys (ALiBi), (rows,).
        total: the whole difference, (rows,), before a soft-cap; the sum of `parts` and `mask`.
    """

    head: Head
    sources: list[Source]
    parts: Tensor
    mask: Tensor
    total: Tensor


@on_exact_layers
def attribute_attention(
    model: Model,
    input_ids: Tensor,
    pairs: Pairs,
    receivers: Sequence[Head],
    *,
    advance: Callable[[int], None] | None = None,
) -> list[AttentionParts]:
    """Split attention logits of some heads into pairs of what wrote keys and queries.

    Args:
        model: the model.
        input_ids: (rows, length).
        pairs: queries and their target keys, the same for every row.
        receivers: the heads.
        advance: called with the number of (layer, row) done.

    Returns:
        one entry for each receiver, in their order; parts add up to the whole, checked for every
        query of every batch.

    Raises:
        NotMeasurable: the model has no heads, its queries and keys cannot be had or are not the
            sum of parts that are known, or no target is visible; the message says which.
        MeasurementError: the sequences are longer than the model's context.
    """
    require_partial_forward(model)
    if model.path == "eager":
        raise NotMeasurable("attention is computed by the model file's own function")
    rows, length = input_ids.shape
    model.require_context(length)
    by_head: dict[Head, AttentionParts] = {}
    for layer in sorted({layer for layer, _ in receivers}):
        model.anatomy.require_heads(range(layer))
        heads = [head for own, head in receivers if own == layer]
        sources = list_sources(model, layer)
        width = model.anatomy.layers[layer].width or model.shapes[layer][2]
        each = 8 * len(sources) * length * width * len(heads)
        step = min(model.limit.rows(length), max(1, PART_BYTES // each))
        batches: list[list[AttentionParts]] = []
        for start in range(0, rows, step):
            ids = input_ids[start : start + step]
            batches.append(_attribute(model, ids, pairs, layer, heads, sources))
            if advance:
                advance(len(ids))
        for own in zip(*batches):
            by_head[own[0].head] = AttentionParts(
                own[0].head,
                sources,
                torch.cat([part.parts for part in own]),
                torch.cat([part.mask for part in own]),
                torch.cat([part.total for part in own]),
            )
    return [by_head[head] for head in dict.fromkeys(receivers)]


def list_sources(model: Model, layer: int) -> list[Source]:
    """Return what writes into the residual stream below a layer, biases last."""
    sources = [Source("embedding")]
    for index, below in enumerate(model.anatomy.layers[:layer]):
        sources += [Source("head", index, head) for head in range(below.heads)]
        if not below.heads:
            sources.append(Source("layer", index))
        elif below.mlps:
            sources.append(Source("mlp", index))
    return [*sources, Source("bias")]


def _attribute(
    model: Model,
    ids: Tensor,
    pairs: Pairs,
    layer: int,
    heads: Sequence[int],
    sources: Sequence[Source],
) -> list[AttentionParts]:
    below = [index for index in range(layer) if model.heads.get(index)]
    wanted = Wanted(heads=below, entered=[0, layer], rest=True)
    run = run_clean(model, ids, wanted, ForwardHooks(stop_after=model.last_layer([layer])))
    frozen = FrozenLayer(model, layer, ids, run)
    readings = [_Reading(frozen.clean, head, pairs, layer, len(ids)) for head in heads]
    zero = torch.zeros_like(run.entered[layer])
    nothing = [reading.read(frozen.call([zero]))[0] for reading in readings]
    group = max(1, model.limit.rows(ids.shape[1]) // len(ids))
    streams = _streams(run, sources, zero)
    while some := list(islice(streams, group)):
        call = frozen.call(some)
        for reading, (query, key) in zip(readings, nothing):
            for own_query, own_key in reading.read(call):
                last = len(reading.queries) == len(sources) - 1
                # Biases are in every call; the last part, the bias, keeps them.
                reading.queries.append(own_query if last else own_query - query)
                reading.keys.append(own_key if last else own_key - key)
    return [reading.finish(sources) for reading in readings]


def _streams(run: CleanRun, sources: Sequence[Source], zero: Tensor) -> Iterator[Tensor]:
    """Yield what each source wrote, (rows, length, width)."""
    for source in sources:
        if source.kind == "embedding":
            part = run.entered[0]
        elif source.kind == "head":
            part = run.contribution([(source.layer, source.head)])
        elif source.kind == "bias":
            part = zero.float()
            for index in run.outputs:
                constant = run.constant(index)
                part = part if constant is None else part + constant
        else:
            part = run.rest[source.layer]
        yield part.to(zero)


class _Reading:
    """Queries and compared keys of one head, part by part.

    Args:
        clean: the attention call of the clean run.
        head: which head.
        pairs: queries and target keys.
        layer: the head's layer.
        rows: rows of the clean run.
    """

    def __init__(
        self, clean: AttentionCall, head: int, pairs: Pairs, layer: int, rows: int
    ) -> None:
        self.head, self.layer, self.rows = head, layer, rows
        self.group = head // (clean.query.shape[1] // clean.key.shape[1])
        self.scale = clean.scale
        device = clean.query.device
        self.at, target = pairs.query.to(device), pairs.key.to(device)
        added, seen = self._mask(clean)
        weight = -seen.float()
        own = torch.arange(len(target), device=device)
        kept = seen[:, own, target] & (seen.sum(-1) > 1)
        weight = weight / (seen.sum(-1, keepdim=True) - 1).clamp_min(1)
        weight[:, own, target] = 1
        self.kept = kept.float()
        if bool((kept.sum(1) == 0).any()):
            raise NotMeasurable(f"head {layer}.{head} sees none of its targets")
        self.weight = weight * self.kept[..., None]
        self.mask = (self.weight * added).sum((1, 2)) / self.kept.sum(1)
        self.query, self.key = self.read(clean)[0]
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.half = clean.query.dtype not in (torch.float32, torch.float64)

    def _mask(self, clean: AttentionCall) -> tuple[Tensor, Tensor]:
        """Return what is added to the queries' logits, and which keys they see."""
        length = clean.query.shape[2]
        if clean.mask is None:
            seen = torch.ones(length, length, dtype=torch.bool, device=self.at.device).tril()
            seen = seen if clean.causal else torch.ones_like(seen)
            seen = seen[self.at].expand(self.rows, -1, -1)
            return torch.zeros_like(seen, dtype=torch.float32), seen
        mask = clean.mask.expand(self.rows, clean.query.shape[1], length, length)
        added = mask[:, self.head, self.at].float()
        seen = added > torch.finfo(clean.mask.dtype).min / 2
        return added.masked_fill(~seen, 0), seen

    def read(self, call: AttentionCall) -> list[tuple[Tensor, Tensor]]:
        """Return queries and compared keys (rows, queries, width) of each stream of a call."""
        pairs = []
        for start in range(0, len(call.query), self.rows):
            block = slice(start, start + self.rows)
            query = call.query[block, self.head][:, self.at].float()
            pairs.append((query, self.weight @ call.key[block, self.group].float()))
        return pairs

    def finish(self, sources: Sequence[Source]) -> AttentionParts:
        """Multiply all parts of queries with all parts of keys, and check their sum."""
        queries, keys = torch.stack(self.queries, 1), torch.stack(self.keys, 1)
        self._check_sum(queries.sum(1), keys.sum(1))
        count = self.kept.sum(1)
        parts = keys.flatten(2) @ queries.flatten(2).transpose(1, 2)
        parts = parts * (self.scale / count)[:, None, None]
        total = (self.query * self.key).sum((1, 2)) * self.scale / count + self.mask
        return AttentionParts(
            (self.layer, self.head), list(sources), parts.cpu(), self.mask.cpu(), total.cpu()
        )

    def _check_sum(self, query: Tensor, key: Tensor) -> None:
        """The parts have to add up to the logit difference of every query."""
        off = ((query * key).sum(-1) - (self.query * self.key).sum(-1)).abs()
        size = float((self.query.norm(dim=-1) * self.key.norm(dim=-1)).max())
        share = float(off.max()) / max(size, 1e-20)
        if not share <= (WITHIN_HALF if self.half else WITHIN):
            raise NotMeasurable(
                f"layer {self.layer}: parts of queries and keys miss the logit by {share:.2g} of "
                "the largest; they are no sums of parts, even with every norm that was found frozen"
            )
