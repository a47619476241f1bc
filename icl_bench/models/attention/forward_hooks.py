"""What one forward pass reads and changes, whichever way attention is reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from icl_bench.errors import ModelError
from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.ablation import Ablation
from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.knockout import Knockout

TOLERANCE = 1e-5
"""How far a probability may stray outside [0, 1] by rounding, while scores are moderate."""
ROUNDING = 5e-7
"""How much further for each unit of the row's log-sum-exp: a score of 600 has few digits left."""
FAST_EXPONENTIAL = 2e-4
"""How much further from a fused kernel in half precision, which approximates the exponential."""


SINK_LOGIT = "sink_logit"
"""Name of the attention that goes to a head's sink logit, and so to no position."""


class Enough(Exception):
    """Ends a forward pass whose rest nobody needs; never leaves the function that runs it."""


Swap = Callable[
    [Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor, Tensor, "Tensor | None"]
]
"""Stand-ins for what an attention call was given; the batch may grow, for all alike."""


class Scratch:
    """Memory for products of queries and keys, kept for a pass.

    Taken anew in every layer it would be given back to the system each time, and the pages that
    the model works on with it.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def dot(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the dot products over the last dimension of two tensors that broadcast.

        An einsum would first copy both sides into another order, four times the work.
        """
        shape = torch.broadcast_shapes(rows.shape, columns.shape)
        size, memory = math.prod(shape), self._memory
        if memory is None or memory.numel() < size or memory.device != rows.device:
            memory = self._memory = torch.empty(size, dtype=rows.dtype, device=rows.device)
        return torch.mul(rows, columns, out=memory[:size].view(shape)).sum(-1)


@dataclass
class ForwardHooks:
    """What one forward pass reads and changes.

    Args:
        pairs: name -> pairs whose attention is wanted.
        raw: keep every pair's value instead of the mean over pairs.
        ablation: heads to switch off, per row of the batch; None for none.
        knockout: edges to remove, per row of the batch; None for none.
        clean_rows: for each row, the row whose queries and keys it attends with, so that its
            patterns are that row's, shape (rows,); None when every row has its own.
        mean_over: physical positions whose head outputs are summed, or None.
        keep_outputs: layers whose heads' outputs are kept.
        stop_after: layer after whose attention the pass may end, when no logits are wanted.
        sink_queries: physical positions over which attention to sink logits is averaged, or None.
        swap: gets queries, keys, values and mask of a call and returns those to go on with.

    After the pass:
        scores: name -> layer -> (batch, heads), or (batch, heads, pairs) when raw; under
            `SINK_LOGIT`, attention to sink logits, in layers that have them.
        output_sums: layer -> (batch, heads, width), sums over `mean_over` in float64.
        outputs: layer -> (batch, length, heads, width).
        shapes: layer -> (heads, kv_heads, width of a head's output), in the order of the calls.
        frozen: layers that attended with the queries and keys of `clean_rows`.
    """

    pairs: dict[str, Pairs] = field(default_factory=dict)
    raw: bool = False
    ablation: Ablation | None = None
    knockout: Knockout | None = None
    clean_rows: Tensor | None = None
    mean_over: slice | None = None
    keep_outputs: Collection[int] = ()
    stop_after: int | None = None
    sink_queries: Tensor | None = None
    swap: Swap | None = None
    scores: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    output_sums: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    frozen: set[int] = field(default_factory=set)
    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    scratch: Scratch = field(default_factory=Scratch)
    _masks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def additive(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `mask` as numbers to add; converted once although every layer brings it."""
        if mask.dtype != torch.bool and mask.dtype == dtype:
            return mask
        # The original is kept beside its copy so that its id stays taken.
        if id(mask) not in self._masks:
            if mask.dtype == torch.bool:
                numbers = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
                numbers.masked_fill_(~mask, float("-inf"))
            else:
                numbers = mask.to(dtype)
            self._masks[id(mask)] = (mask, numbers)
        return self._masks[id(mask)][1]

    def take_scores(self, layer: int, name: str, values: Tensor, magnitude: float = 0) -> None:
        """Keep the probabilities (batch, heads, pairs) of `name` in `layer`.

        Args:
            layer: the decoder layer.
            name: which pairs.
            values: their probabilities.
            magnitude: largest score behind them, which bounds the rounding.

        Raises:
            ModelError: some are not finite, or not probabilities.
        """
        if not bool(torch.isfinite(values).all()):
            bad = (~torch.isfinite(values)).any(-1).any(0).nonzero()[:, 0].tolist()
            which = f"head {bad[0]}" if len(bad) == 1 else f"heads {', '.join(map(str, bad))}"
            raise ModelError(
                f"layer {layer}, {which} of {values.shape[1]}: attention probabilities are not "
                "finite numbers; the weights, or a dtype too small for them, give NaN or infinity"
            )
        low, high = float(values.min()), float(values.max())
        slack = TOLERANCE + ROUNDING * magnitude
        if low < -slack or high > 1 + slack:
            raise ModelError(
                f"layer {layer}: attention probabilities of '{name}' reach from {low:.6g} to "
                f"{high:.6g}: the model's mask or scaling is not what the kernel was given"
            )
        values = values.clamp(0, 1)
        if self.raw:
            kept = values
        elif (weight := self.pairs[name].weight) is not None:
            weight = weight.to(values)[:, None, :]
            kept = (values * weight).sum(-1) / weight.sum(-1)
        else:
            kept = values.mean(-1)
        self.scores.setdefault(name, {})[layer] = kept

    def take_sinks(self, layer: int, share: Tensor) -> None:
        """Keep what the sink logits took of each row, (batch, heads, length), in `layer`."""
        if self.sink_queries is not None:
            chosen = share[:, :, self.sink_queries.to(share.device)]
            self.scores.setdefault(SINK_LOGIT, {})[layer] = chosen.float().mean(-1)

    def freeze(self, layer: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries and keys (batch, heads, length, width) to attend with in `layer`."""
        if self.clean_rows is None:
            return query, key
        self.frozen.add(layer)
        rows = self.clean_rows.to(query.device)
        return query[rows], key[rows]

    def see_call(self, layer: int, call: AttentionCall) -> None:
        """Look at what the attention of `layer` is about to compute with; here, do nothing."""

    def finish_layer(self, layer: int, output: Tensor) -> Tensor:
        """Read and change the heads' outputs (batch, length, heads, width) of `layer`.

        Raises:
            Enough: nothing after this layer is wanted.
        """
        if self.mean_over is not None:
            self.output_sums[layer] = output[:, self.mean_over].double().sum(1)
        if layer in self.keep_outputs:
            self.outputs[layer] = output.clone()
        if self.stop_after == layer:
            raise Enough
        if self.ablation is not None:
            return self.ablation.apply(layer, output)
        return output

    @property
    def missed(self) -> set[int]:
        """Layers in which something was to be changed and has not been."""
        missed = self.ablation.missed if self.ablation else set()
        if self.knockout:
            missed = missed | self.knockout.missed
        if self.clean_rows is not None:
            missed = missed | (self.shapes.keys() - self.frozen)
        return missed


active: ContextVar[ForwardHooks | None] = ContextVar("icl_bench_forward_hooks", default=None)


@contextmanager
def activate(hooks: ForwardHooks) -> Iterator[ForwardHooks]:
    """Let the attention functions call `hooks` inside the block."""
    token = active.set(hooks)
    try:
        yield hooks
    finally:
        active.reset(token)
