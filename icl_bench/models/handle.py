"""A transformers model whose forward passes can be read and changed, and what it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from icl_bench.errors import MeasurementError, ModelError, NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.models.attention.paths import PATHS, Runner
from icl_bench.models.attention.selfcheck import choose_path
from icl_bench.models.module.batching import BatchLimit
from icl_bench.models.module.families import explain_no_heads
from icl_bench.models.module.placement import count_parameters
from icl_bench.models.module.quantization import (
    compute_dtype,
    describe_quantization,
    rounds_inputs,
)
from icl_bench.models.module.reach import attention_reach
from icl_bench.models.module.vocabulary import (
    bare_ids,
    bos_id,
    context_length,
    embedding_weight,
    fingerprint,
    frequent_ids,
    usable_ids,
    vocabulary_size,
)


@dataclass(frozen=True)
class ModelName:
    """What a model is called, and where it comes from.

    Args:
        spec: how the user named it.
        slug: its name in ids and folders.
        origin: where it comes from, as in `ModelSpec.origin`; None for a model that was open.
        revision: revision or commit, when it has one.
        adapter: which adapters are applied to its weights.
        base: the model that they are applied to, if it is another's.
        base_revision: commit of that model.
        quantization: what its files say of quantized weights, if they were unpacked meanwhile.
    """

    spec: str = "wrapped"
    slug: str = "wrapped"
    origin: str | None = None
    revision: str | None = None
    adapter: str | None = None
    base: str | None = None
    base_revision: str | None = None
    quantization: str | None = None


def _remarks(runner: Runner) -> Iterator[str]:
    """What must be known of quantized weights to read a model's numbers."""
    if rounds_inputs(runner.model):
        yield (
            "quantized layers round what they are given, too: losses and attention are those of "
            "the quantized model; what is read from weights, and what is attributed, is that of "
            "the values that they stand for"
        )
    if runner.coupling is not None:
        yield (
            "quantized layers couple the tokens of a batch (columns with outliers): another last "
            f"token changed the logits before it by {runner.coupling:.2g} of their range"
        )


class ModelHandle:
    """A transformers model, its tokenizer, and the path by which its heads are reached.

    Args:
        model: a causal language model; left as it was after every call.
        tokenizer: its tokenizer, or None (text items are then skipped).
        name: what it is called.
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
        name: ModelName = ModelName(),
        *,
        batch_size: int | None = None,
        tokenizer_note: str | None = None,
    ) -> None:
        self.model = model
        if tokenizer is None and tokenizer_note is None:
            tokenizer_note = "the model has no tokenizer"
        self.tokenizer_note = tokenizer_note
        self.tokenizer = tokenizer
        self.spec, self.slug = name.spec, name.slug
        self.origin, self.revision, self.adapter = name.origin, name.revision, name.adapter
        self.base, self.base_revision = name.base, name.base_revision
        self._quantization = name.quantization
        self.runner = Runner(model)
        self.vocabulary = usable_ids(model, tokenizer)
        if len(self.vocabulary) < 2:
            raise ModelError("fewer than two token ids are usable for probes")
        self.limit = BatchLimit(self.runner.device.type, batch_size, 4 * vocabulary_size(model))
        self.bos = bos_id(model, tokenizer)
        self.context = context_length(model)
        self.reach = attention_reach(model.config.get_text_config())
        self.attention_note: str | None = None
        self.shapes: dict[int, tuple[int, int, int]] = {}
        self.path: str | None = None
        """Name of the way in which heads are reached (`attention.paths.PATHS`), or None."""
        self._in_order = False
        self.resumes: dict[int, bool] = {}
        self.no_heads = explain_no_heads(model)
        if self.no_heads is None:
            self.path, shapes, self.attention_note = choose_path(self.runner, self.vocabulary)
            self.shapes = dict(sorted(shapes.items()))
            self._in_order = list(shapes) == list(self.shapes)
        self.remarks = list(_remarks(self.runner))

    def _facts(self) -> dict[str, str]:
        """What the model is, in words, for somebody who looks at it."""
        counts = sorted(set(self.heads.values()))
        heads = "no attention heads"
        if counts:
            per_layer = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            some = "" if len(self.heads) == self.layers else f" in {len(self.heads)} of them"
            heads = f"{per_layer} heads each{some}"
        return {
            "architecture": type(self.model).__name__,
            "size": f"{self.layers} layers, {heads}, {self.parameters:,} parameters",
            "runs as": f"{self.dtype} on {self.runner.device}, attention {self.attention}",
            **({"quantization": self.quantization} if self.quantization else {}),
            "tokenizer": "none" if self.tokenizer is None else type(self.tokenizer).__name__,
        }

    def __repr__(self) -> str:
        return f"<Model {self.spec}: {'; '.join(self._facts().values())}>"

    def _repr_html_(self) -> str:
        rows = {"model": self.spec, **self._facts()}.items()
        cells = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows)
        return f"<table>{''.join(cells)}</table>"

    @property
    def attention(self) -> str:
        """How attention probabilities are obtained: fused, chunked, eager, or none."""
        return "none" if self.path is None else PATHS[self.path][0]

    @property
    def through_interface(self) -> bool:
        """Whether queries, keys and values can be had: attention is not read by hooks alone."""
        return self.path not in (None, "hooked")

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
    def dtype(self) -> str:
        """Data type of the weights, or of the products of quantized ones, e.g. `float32`."""
        own = embedding_weight(self.model).dtype
        return str(compute_dtype(self.model, own)).removeprefix("torch.")

    @property
    def quantization(self) -> str | None:
        """Method and bits of quantized weights, or None."""
        return self._quantization or describe_quantization(self.model)

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return count_parameters(self.model)

    def pool(self, name: str) -> list[int]:
        """Return the ids that sequences are drawn from.

        Args:
            name: `uniform` for all usable ones, `frequent` for the first quarter of them.
        """
        return self.vocabulary if name == "uniform" else frequent_ids(self.vocabulary)

    def bare_tokens(self, pool: str) -> int:
        """Return how many ids of a pool have next to no embedding.

        Args:
            pool: as for `pool`.
        """
        return bare_ids(self.model, self.pool(pool))

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

    def require_ids(self, ids: Tensor) -> None:
        """Raise MeasurementError when an id has no row in the model's embedding.

        Args:
            ids: of any shape.
        """
        rows = vocabulary_size(self.model)
        wrong = ids[(ids < 0) | (ids >= rows)]
        if len(wrong):
            raise MeasurementError(
                f"token id {int(wrong[0])} is not among the {rows} ids of the model's embedding "
                f"(0 to {rows - 1}): use the model's own tokenizer, or resize its embedding"
            )

    def require_reach(self, period: int) -> None:
        """Raise MeasurementError when no head sees what it would attend to on repeats.

        Args:
            period: tokens from a token to its repetition; the target is one token nearer.
        """
        if self.reach is not None and period - 1 > self.reach:
            raise MeasurementError(
                f"heads see {self.reach} tokens back, and with a period of {period} what followed "
                f"before stands {period - 1} back; lower the period to {self.reach + 1} at most"
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
            MeasurementError: the sequences are longer than the context, or an id has no embedding.
            ModelError: the kernel does not fit, or something that was to be changed was not.
        """
        self.require_context(ids.shape[1])
        self.require_ids(ids)
        if self.path is None:
            return self.runner.run_plain(ids, keep)
        try:
            result = PATHS[self.path][1](self.runner, ids, hooks, keep, logits)
        except KernelMisfit as error:
            raise ModelError(f"{error} on {ids.shape[1]} tokens") from None
        if hooks.missed:
            layers = ", ".join(str(layer) for layer in sorted(hooks.missed))
            raise ModelError(f"the ablation in layer {layers} did not act")
        return result
