"""A language model whose heads can be read and switched off."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_bench.errors import MeasurementError, ModelError, NotMeasurable
from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.forward_hooks import SINK_LOGIT, ForwardHooks
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.models.attention.paths import PATHS, Runner
from icl_bench.models.attention.selfcheck import choose_path
from icl_bench.models.clean_run import run_base
from icl_bench.models.module.batching import Advance, BatchLimit, run_in_batches
from icl_bench.models.module.families import NO_ATTENTION
from icl_bench.models.module.losses import TokenLosses
from icl_bench.models.module.placement import count_parameters
from icl_bench.models.module.vocabulary import (
    bos_id,
    context_length,
    embedding_weight,
    fingerprint,
    usable_ids,
    vocabulary_size,
)
from icl_bench.models.residual.anatomy import Anatomy, find_anatomy


class Model:
    """A transformers model, its tokenizer, and the path by which its heads are reached.

    Args:
        model: a causal language model; left as it was after every call.
        tokenizer: its tokenizer, or None (text items are then skipped).
        spec: how the user named it.
        slug: its name in ids and folders.
        origin: where it comes from, as in `ModelSpec.origin`; None for a model that was open.
        revision: revision or commit, when it has one.
        batch_size: rows of a forward pass, or None to choose.
        tokenizer_note: why there is no tokenizer.

    Raises:
        ModelError: the model cannot be run.
        UnsupportedModel: it has heads, but no path reads them rightly.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any | None = None,
        *,
        spec: str = "wrapped",
        slug: str = "wrapped",
        origin: str | None = None,
        revision: str | None = None,
        batch_size: int | None = None,
        tokenizer_note: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer_note = tokenizer_note or "the model has no tokenizer"
        self.tokenizer = tokenizer
        self.spec, self.slug, self.origin, self.revision = spec, slug, origin, revision
        self.runner = Runner(model)
        self.vocabulary = usable_ids(model, tokenizer)
        if len(self.vocabulary) < 2:
            raise ModelError("fewer than two token ids are usable for probes")
        self.limit = BatchLimit(self.runner.device.type, batch_size, 4 * vocabulary_size(model))
        self.bos = bos_id(model, tokenizer)
        self.context = context_length(model)
        self.no_heads: str | None = None
        self.attention_note: str | None = None
        self.shapes: dict[int, tuple[int, int, int]] = {}
        self._path: str | None = None
        self._in_order = False
        self._anatomy: tuple[int, Anatomy] | None = None
        self.resumes: dict[int, bool] = {}
        kind = model.config.model_type
        if kind in NO_ATTENTION:
            self.no_heads = f"{kind} is {NO_ATTENTION[kind]}: it has no attention heads"
        else:
            self._path, found, self.attention_note = choose_path(self.runner, self.vocabulary)
            self.shapes = dict(sorted(found.items()))
            self._in_order = list(found) == list(self.shapes)

    @property
    def attention(self) -> str:
        """How attention probabilities are obtained: fused, chunked, eager, or none."""
        return "none" if self._path is None else PATHS[self._path][0]

    @property
    def through_interface(self) -> bool:
        """Whether queries, keys and values can be had: attention is not read by hooks alone."""
        return self._path not in (None, "hooked")

    @property
    def batch_size(self) -> int | None:
        """Rows of a forward pass as the user asked for; None where they are chosen."""
        return self.limit.fixed

    @batch_size.setter
    def batch_size(self, rows: int | None) -> None:
        self.limit.fixed = rows

    @property
    def embedding(self) -> Tensor:
        """Token embedding (vocabulary, width)."""
        return embedding_weight(self.model)

    @property
    def path(self) -> str | None:
        """Name of the way in which heads are reached (`attention.paths.PATHS`), or None."""
        return self._path

    @property
    def heads(self) -> dict[int, int]:
        """Layer -> number of query heads, for the layers that have attention."""
        return {layer: shape[0] for layer, shape in self.shapes.items()}

    @property
    def every_head(self) -> list[tuple[int, int]]:
        """Every (layer, head), in order."""
        return [(layer, head) for layer, count in self.heads.items() for head in range(count)]

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        count = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        return int(count) if count is not None else len(self.shapes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every weight."""
        return fingerprint(self.model)

    @property
    def anatomy(self) -> Anatomy:
        """Which module writes what into the residual stream; found again when weights changed."""
        state = hash(tuple((p.data_ptr(), p._version) for p in self.model.parameters()))
        if self._anatomy is None or self._anatomy[0] != state:
            self._anatomy = (state, find_anatomy(self))
        return self._anatomy[1]

    @property
    def dtype(self) -> str:
        """Data type of the weights, e.g. `float32`."""
        return str(embedding_weight(self.model).dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return count_parameters(self.model)

    def require_heads(self) -> None:
        """Raise NotMeasurable when the model has no attention heads."""
        if self.no_heads is not None:
            raise NotMeasurable(self.no_heads)

    def require_context(self, length: int) -> None:
        """Raise MeasurementError when `length` tokens do not fit into the model's context."""
        if self.context is not None and length > self.context:
            raise MeasurementError(
                f"a sequence of {length} tokens does not fit into the model's context of "
                f"{self.context}; lower the period or the repeats"
            )

    def choose_bos(self, rule: str) -> int | None:
        """Return the id to put first under the rule auto, always or never.

        Raises:
            MeasurementError: `always`, and the model defines none.
        """
        if rule == "never":
            return None
        if rule == "always" and self.bos is None:
            raise MeasurementError("bos: always, but neither tokenizer nor config defines a BOS id")
        return self.bos

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
            for name, layers in hooks.scores.items():
                for layer in self.shapes:
                    parts.setdefault(name, {}).setdefault(layer, []).append(layers[layer].cpu())

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
            for layer in wanted:
                total = hooks.output_sums[layer].sum(0).cpu()
                sums[layer] = sums[layer] + total if layer in sums else total

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

    def last_layer(self, layers: Collection[int]) -> int | None:
        """Return the layer after which a pass may end, or None where it has to run through.

        A pass ends early only where the layers' attention is known to be called in order.
        """
        return max(layers) if self.through_interface and self._in_order and layers else None

    def run_pass(
        self, ids: Tensor, hooks: ForwardHooks, keep: Tensor | None = None, *, logits: bool = True
    ) -> Tensor | None:
        """Run one batch through the model's attention path.

        Args:
            ids: (rows, length).
            hooks: what to read and change.
            keep: positions whose logits are wanted; None for all.
            logits: False to stop before the language-modelling head.

        Returns:
            logits (rows, positions, vocabulary), or None when none were asked for.

        Raises:
            MeasurementError: the sequences are longer than the context.
            ModelError: the kernel does not fit, or something that was to be changed was not.
        """
        self.require_context(ids.shape[1])
        if self._path is None:
            return self.runner.run_plain(ids, keep)
        try:
            result = PATHS[self._path][1](self.runner, ids, hooks, keep, logits)
        except KernelMisfit as error:
            raise ModelError(f"{error} on {ids.shape[1]} tokens") from None
        if hooks.missed:
            layers = ", ".join(str(layer) for layer in sorted(hooks.missed))
            raise ModelError(f"the ablation in layer {layers} did not act")
        return result
