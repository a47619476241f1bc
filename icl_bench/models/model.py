"""A language model whose heads can be read and switched off."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.forward_hooks import SINK_LOGIT, ForwardHooks
from icl_bench.models.clean_run import run_base
from icl_bench.models.handle import ModelHandle
from icl_bench.models.module.batching import Advance, run_in_batches
from icl_bench.models.module.losses import TokenLosses
from icl_bench.models.residual.anatomy import Anatomy, find_anatomy


class Model(ModelHandle):
    """A model and what is read of it: scores, outputs of heads, losses; made as a `ModelHandle`."""

    _anatomy: tuple[int, Anatomy] | None = None

    @property
    def anatomy(self) -> Anatomy:
        """Which module writes what into the residual stream; found again when weights changed."""
        state = hash(tuple((p.data_ptr(), p._version) for p in self.model.parameters()))
        if self._anatomy is None or self._anatomy[0] != state:
            self._anatomy = (state, find_anatomy(self))
        return self._anatomy[1]

    def head_scores(
        self,
        input_ids: Tensor,
        pairs: dict[str, Pairs],
        *,
        raw: bool = False,
        sink_queries: Tensor | None = None,
        advance: Advance | None = None,
    ) -> dict[str, dict[int, Tensor]]:
        """Attention of every head on the given pairs, without building attention matrices.

        Args:
            input_ids: (rows, length).
            pairs: name -> pairs.
            raw: one value per pair instead of the mean over pairs.
            sink_queries: physical positions over which attention to sink logits is averaged.
            advance: called with the number of rows done.

        Returns:
            name -> layer -> (rows, heads) probabilities, or (rows, heads, pairs) when raw; with
            `sink_queries`, and if the model has sink logits, `sink_logit` as well, 0 in layers
            without.

        Raises:
            NotMeasurable: the model has no attention heads.
            MeasurementError: the sequences are longer than the context.
        """
        self.require_heads()
        parts: dict[str, dict[int, list[Tensor]]] = {}

        def work(start: int, stop: int) -> None:
            chosen = {name: some.rows(start, stop) for name, some in pairs.items()}
            last = self.last_layer(self.shapes)
            hooks = ForwardHooks(pairs=chosen, raw=raw, stop_after=last, sink_queries=sink_queries)
            self.run_pass(input_ids[start:stop], hooks, None, logits=False)
            if sinks := hooks.scores.get(SINK_LOGIT):
                for layer, heads in self.heads.items():
                    sinks.setdefault(layer, torch.zeros(stop - start, heads))
            found = {
                name: {layer: layers[layer].cpu() for layer in self.shapes}
                for name, layers in hooks.scores.items()
            }
            # All at once: a batch that runs out of memory before is run again, and counts once.
            for name, layers in found.items():
                for layer, scores in layers.items():
                    parts.setdefault(name, {}).setdefault(layer, []).append(scores)

        run_in_batches(input_ids.shape, self.limit, work, advance=advance)
        return {
            name: {layer: torch.cat(tensors) for layer, tensors in layers.items()}
            for name, layers in parts.items()
        }

    def mean_outputs(
        self, input_ids: Tensor, prefix: int, layers: Collection[int] | None = None
    ) -> dict[int, Tensor]:
        """Mean output of every head over the content positions of a batch.

        Args:
            input_ids: (rows, prefix + length).
            prefix: positions to leave out at the front.
            layers: the layers wanted; None for all.

        Returns:
            layer -> (heads, width), float32.
        """
        self.require_heads()
        rows, length = input_ids.shape
        wanted = sorted(self.shapes if layers is None else layers)
        sums: dict[int, Tensor] = {}

        def work(start: int, stop: int) -> None:
            hooks = ForwardHooks(
                mean_over=slice(prefix, length), stop_after=self.last_layer(wanted)
            )
            self.run_pass(input_ids[start:stop], hooks, None, logits=False)
            totals = {layer: hooks.output_sums[layer].sum(0).cpu() for layer in wanted}
            # All at once, as above.
            sums.update({layer: sums.get(layer, 0) + total for layer, total in totals.items()})

        run_in_batches(input_ids.shape, self.limit, work)
        count = rows * (length - prefix)
        return {layer: (total / count).float() for layer, total in sums.items()}

    def head_outputs(self, input_ids: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        """Output of every head of some layers at every position.

        Args:
            input_ids: (rows, length).
            layers: the layers wanted.

        Returns:
            layer -> (rows, length, heads, width), in the model's dtype.
        """
        self.require_heads()
        parts: dict[int, list[Tensor]] = {layer: [] for layer in sorted(layers)}

        def work(start: int, stop: int) -> None:
            hooks = ForwardHooks(keep_outputs=parts.keys(), stop_after=self.last_layer(parts))
            self.run_pass(input_ids[start:stop], hooks, None, logits=False)
            for layer, kept in parts.items():
                kept.append(hooks.outputs[layer])

        run_in_batches(input_ids.shape, self.limit, work)
        return {layer: torch.cat(kept) for layer, kept in parts.items()}

    def losses(
        self,
        input_ids: Tensor,
        targets: Tensor | None = None,
        *,
        advance: Advance | None = None,
    ) -> TokenLosses:
        """Cross-entropy of chosen targets.

        Args:
            input_ids: (rows, length).
            targets: physical positions of the target tokens, each >= 1; None for all.
            advance: called with the number of rows done.

        Returns:
            losses of shape (rows, targets).
        """
        wanted = torch.arange(1, input_ids.shape[1]) if targets is None else targets
        return run_base(self, input_ids, wanted, advance=advance).losses
