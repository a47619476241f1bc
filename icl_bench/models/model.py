"""A language model whose heads can be read and switched off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_bench.errors import MeasurementError, ModelError, NotMeasurable
from icl_bench.measures.tokens import Pairs
from icl_bench.models.ablation import Ablation
from icl_bench.models.attention import Pass
from icl_bench.models.families import NO_ATTENTION
from icl_bench.models.kernels import KernelMisfit
from icl_bench.models.losses import TokenLosses, join_losses, score_targets
from icl_bench.models.paths import PATHS, Runner
from icl_bench.models.prefix import Prefix, capture_prefix, resume, same_logits
from icl_bench.models.selfcheck import choose_path
from icl_bench.models.vocabulary import (
    bos_id,
    context_length,
    embedding_weight,
    fingerprint,
    usable_ids,
    vocabulary_size,
)

TOKENS_PER_BATCH = 2048
"""Tokens in one forward pass when the batch size is found automatically."""
LOGIT_BYTES = 256 * 2**20
"""Memory that one batch of logits may take."""

Advance = Callable[[int], None]


class Model:
    """A transformers model, its tokenizer, and the path by which its heads are reached.

    Args:
        model: a causal language model; left as it was after every call.
        tokenizer: its tokenizer, or None (text items are then skipped).
        spec: how the user named it.
        slug: the spec made fit for ids and folders.
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
        revision: str | None = None,
        batch_size: int | None = None,
        tokenizer_note: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer_note = tokenizer_note or "the model has no tokenizer"
        self.tokenizer = tokenizer
        self.spec, self.slug, self.revision = spec, slug, revision
        self.batch_size = batch_size
        self.runner = Runner(model)
        self.vocabulary = usable_ids(model, tokenizer)
        if len(self.vocabulary) < 2:
            raise ModelError("fewer than two token ids are usable for probes")
        self.bos = bos_id(model, tokenizer)
        self.context = context_length(model)
        self.no_heads: str | None = None
        self.attention_note: str | None = None
        self.shapes: dict[int, tuple[int, int, int]] = {}
        self._path: str | None = None
        self._resumes: dict[int, bool] = {}
        kind = model.config.model_type
        if kind in NO_ATTENTION:
            self.no_heads = f"{kind} is {NO_ATTENTION[kind]}: it has no attention heads"
        else:
            self._path, self.shapes, self.attention_note = choose_path(self.runner, self.vocabulary)

    @property
    def attention(self) -> str:
        """How attention probabilities are obtained: fused, chunked, eager, or none."""
        return "none" if self._path is None else PATHS[self._path][0]

    @property
    def heads(self) -> dict[int, int]:
        """Layer -> number of query heads, for the layers that have attention."""
        return {layer: shape[0] for layer, shape in self.shapes.items()}

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
    def dtype(self) -> str:
        """Data type of the weights, e.g. `float32`."""
        return str(embedding_weight(self.model).dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

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

    def rows_per_batch(self, length: int, targets: int = 0) -> int:
        """Return how many rows of `length` tokens to run at once, for logits of `targets`."""
        if self.batch_size is not None:
            return self.batch_size
        rows = max(1, TOKENS_PER_BATCH // length)
        if targets:
            row_bytes = 4 * targets * vocabulary_size(self.model)
            rows = min(rows, max(1, LOGIT_BYTES // row_bytes))
        return rows

    def head_scores(
        self,
        input_ids: Tensor,
        pairs: dict[str, Pairs],
        *,
        raw: bool = False,
        advance: Advance | None = None,
    ) -> dict[str, dict[int, Tensor]]:
        """Attention of every head on the given pairs, without building attention matrices.

        Args:
            input_ids: (rows, length).
            pairs: name -> pairs.
            raw: one value per pair instead of the mean over pairs.
            advance: called with the number of rows done.

        Returns:
            name -> layer -> (rows, heads) probabilities, or (rows, heads, pairs) when raw.

        Raises:
            NotMeasurable: the model has no attention heads.
            MeasurementError: the sequences are longer than the context.
        """
        self.require_heads()
        rows, length = input_ids.shape
        self.require_context(length)
        parts: dict[str, dict[int, list[Tensor]]] = {
            name: {layer: [] for layer in self.shapes} for name in pairs
        }
        step = self.rows_per_batch(length)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            chosen = {name: some.rows(start, stop) for name, some in pairs.items()}
            work = Pass(pairs=chosen, raw=raw)
            self._run(input_ids[start:stop], work, None, False)
            for name in pairs:
                for layer in self.shapes:
                    parts[name][layer].append(work.scores[name][layer].cpu())
            if advance:
                advance(stop - start)
        return {
            name: {layer: torch.cat(tensors) for layer, tensors in layers.items()}
            for name, layers in parts.items()
        }

    def mean_outputs(self, input_ids: Tensor, prefix: int) -> dict[int, Tensor]:
        """Mean output of every head over the content positions of a batch.

        Args:
            input_ids: (rows, prefix + length).
            prefix: positions to leave out at the front.

        Returns:
            layer -> (heads, width), float32.
        """
        self.require_heads()
        rows, length = input_ids.shape
        self.require_context(length)
        sums: dict[int, Tensor] = {}
        step = self.rows_per_batch(length)
        for start in range(0, rows, step):
            work = Pass(mean_over=slice(prefix, length))
            self._run(input_ids[start : start + step], work, None, False)
            for layer, part in work.output_sums.items():
                total = part.sum(0).cpu()
                sums[layer] = sums[layer] + total if layer in sums else total
        count = rows * (length - prefix)
        return {layer: (total / count).float() for layer, total in sums.items()}

    def losses(
        self,
        input_ids: Tensor,
        targets: Tensor | None = None,
        *,
        sets: Sequence[Sequence[tuple[int, int]]] | None = None,
        values: dict[int, Tensor] | None = None,
        advance: Advance | None = None,
    ) -> TokenLosses:
        """Cross-entropy of chosen targets, with heads switched off per row.

        Args:
            input_ids: (rows, length).
            targets: physical positions of the target tokens, each >= 1; None for all.
            sets: for each row the heads that are off, or None for none.
            values: what stands in for their outputs, layer -> (heads, width); None for zeros.
            advance: called with the number of rows done.

        Returns:
            losses of shape (rows, targets).
        """
        rows, length = input_ids.shape
        self.require_context(length)
        wanted = torch.arange(1, length) if targets is None else targets
        parts = []
        step = self.rows_per_batch(length, len(wanted))
        for start in range(0, rows, step):
            batch = input_ids[start : start + step]
            ablation = None
            if sets is not None:
                self.require_heads()
                ablation = Ablation.build(sets[start : start + step], self.heads, values)
            logits = self._run(batch, Pass(ablation=ablation), wanted - 1, True)
            parts.append(score_targets(logits, batch[:, wanted]))
            if advance:
                advance(len(batch))
        return join_losses(parts)

    def losses_of_sets(
        self,
        input_ids: Tensor,
        targets: Tensor,
        sets: Sequence[Sequence[tuple[int, int]]],
        *,
        values: dict[int, Tensor] | None = None,
        advance: Advance | None = None,
    ) -> TokenLosses:
        """Losses of every sequence under every set of heads switched off.

        The layers below the earliest head of all sets are run once and shared.

        Args:
            input_ids: (sequences, length).
            targets: physical positions of the target tokens, each >= 1.
            sets: the sets of heads to switch off, one after the other.
            values: stand-ins as in `losses`.
            advance: called with the number of rows done, sets * sequences in all.

        Returns:
            losses of shape (sets, sequences, targets).
        """
        self.require_heads()
        count, length = input_ids.shape
        self.require_context(length)
        earliest = min((layer for heads in sets for layer, _ in heads), default=0)
        prefix = self._shared_prefix(input_ids, earliest)
        parts = []
        step = self.rows_per_batch(length, len(targets))
        for start in range(0, len(sets) * count, step):
            index = torch.arange(start, min(start + step, len(sets) * count))
            rows = index % count
            off = [sets[i] for i in (index // count).tolist()]
            work = Pass(ablation=Ablation.build(off, self.heads, values))
            with nullcontext() if prefix is None else resume(self.runner, prefix, rows):
                logits = self._run(input_ids[rows], work, targets - 1, True)
            parts.append(score_targets(logits, input_ids[rows][:, targets]))
            if advance:
                advance(len(rows))
        joined = join_losses(parts)
        shape = (len(sets), count, len(targets))
        return TokenLosses(joined.nll.reshape(shape), joined.correct.reshape(shape))

    def _shared_prefix(self, input_ids: Tensor, layer: int) -> Prefix | None:
        """Return what enters `layer`, when resuming there is proven to change nothing."""
        prefix = capture_prefix(self.runner, input_ids, layer)
        if prefix is None:
            return None
        if layer not in self._resumes:
            # Rows are switched, so that a pass that ignores the stand-in would be noticed.
            rows = torch.arange(min(2, len(input_ids))).flip(0)
            ids, keep = input_ids[rows], torch.tensor([input_ids.shape[1] - 1])
            full = self._run(ids, Pass(), keep, True)
            with resume(self.runner, prefix, rows):
                short = self._run(ids, Pass(), keep, True)
            assert full is not None and short is not None
            self._resumes[layer] = same_logits(full, short)
        return prefix if self._resumes[layer] else None

    def _run(self, ids: Tensor, work: Pass, keep: Tensor | None, logits: bool) -> Tensor | None:
        if self._path is None:
            return self.runner.run_plain(ids, keep)
        try:
            result = PATHS[self._path][1](self.runner, ids, work, keep, logits)
        except KernelMisfit as error:
            raise ModelError(f"{error} on {ids.shape[1]} tokens") from None
        except torch.OutOfMemoryError:
            raise ModelError(
                f"memory ran out on {len(ids)} x {ids.shape[1]} tokens; set a smaller batch size"
            ) from None
        if work.ablation is not None and work.ablation.missed:
            layers = ", ".join(str(layer) for layer in sorted(work.ablation.missed))
            raise ModelError(f"the ablation in layer {layers} did not act")
        return result
