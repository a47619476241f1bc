"""What stands in for heads that are switched off: the methods of ablation by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from icl_bench.errors import SettingsError
from icl_bench.probes.design.settings import TokenPool, TokenSettings

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.tokens import Pairs
    from icl_bench.models.attention.ablation import Part, Replacement
    from icl_bench.models.model import Model

Method = Literal["zero", "mean", "resample", "pattern_preserving", "edge_knockout"]
"""`zero`: nothing is written. `mean`: the head's mean output over content positions of held-out
random tokens. `resample`: its output at the same position of other, held-out random tokens.
`pattern_preserving`: zero, while every head attends as in the clean run. `edge_knockout`: the
head stays on and loses its attention to the induction target alone."""
Patterns = Literal["free", "frozen"]
"""`frozen`: every head attends as in the clean run, whatever the ablation changes below it."""

METHODS: tuple[Method, ...] = Method.__args__  # type: ignore[attr-defined]


@dataclass
class Prepared:
    """A replacement, and the held-out tokens that it was made from.

    Args:
        replacement: what becomes of the heads.
        batches: token ids that went through the model to make it.
    """

    replacement: Replacement
    batches: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """Random tokens, never measured, that stand-ins are made from.

    Args:
        sequences: how many are drawn.
        length: tokens of a sequence, BOS included.
        bos: id put first, or None.
        seed: seed of the tokens.
        token_pool: which ids they are drawn from.
    """

    sequences: int
    length: int
    bos: int | None
    seed: int = 0
    token_pool: TokenPool = "uniform"

    @classmethod
    def like(
        cls, model: Model, settings: TokenSettings, length: int, sequences: int | None = None
    ) -> HeldOut:
        """Return tokens drawn as a probe's own are, of another stream.

        Args:
            model: the model.
            settings: the probe's.
            length: tokens of a sequence, BOS included.
            sequences: how many; as many as the probe's own when None.
        """
        count = settings.sequences if sequences is None else sequences
        bos = model.choose_bos(settings.bos)
        return cls(count, length, bos, settings.seed, settings.token_pool)

    def draw(self, model: Model) -> Tensor:
        """Return the token ids, (sequences, length).

        Args:
            model: the model whose vocabulary they are drawn from.
        """
        from icl_bench.measures.tokens import draw_plain

        pool, content = model.pool(self.token_pool), self.length - self.prefix
        return draw_plain(
            pool, sequences=self.sequences, length=content, seed=self.seed, bos=self.bos
        )

    @property
    def prefix(self) -> int:
        """Positions at the front that are no content."""
        return 0 if self.bos is None else 1


def prepare_replacement(
    model: Model,
    method: Method,
    parts: Collection[Part],
    held_out: HeldOut,
    *,
    patterns: Patterns = "free",
    edges: Pairs | None = None,
) -> Prepared:
    """Measure what a method puts in the place of heads.

    Args:
        model: the model.
        method: a name in `METHODS`.
        parts: the heads, MLPs and layers that will be switched off.
        held_out: the tokens that means and outputs are measured on.
        patterns: whether attention patterns are frozen to the clean run.
        edges: the pairs that `edge_knockout` removes.

    Raises:
        SettingsError: the method needs heads, and an MLP or a layer is to be switched off.
        ValueError: `edge_knockout` without edges.
    """
    from icl_bench.models.attention.ablation import Replacement, split_parts

    _, components = split_parts(parts)
    if components and method in ("resample", "edge_knockout"):
        raise SettingsError(f"{method} is for heads; MLPs and layers take zero or mean")
    frozen = patterns == "frozen" or method == "pattern_preserving"
    if method == "edge_knockout":
        if edges is None:
            raise ValueError("edge_knockout needs edges")
        return Prepared(Replacement(edges=edges))
    if method in ("zero", "pattern_preserving") or not parts:
        return Prepared(Replacement(frozen=frozen))
    tokens = held_out.draw(model)
    return replace_from(model, method, parts, tokens, held_out.prefix, frozen=frozen)


def replace_from(
    model: Model,
    method: Method,
    parts: Collection[Part],
    held_out: Tensor,
    prefix: int,
    *,
    frozen: bool = False,
) -> Prepared:
    """Run held-out tokens for what stands in for heads: their means there, or their outputs.

    Args:
        model: the model.
        method: `mean` or `resample`.
        parts: the heads, MLPs and layers that will be switched off.
        held_out: token ids, (rows, prefix + length).
        prefix: positions at the front that are no content.
        frozen: whether attention patterns are frozen to the clean run.
    """
    from icl_bench.models.attention.ablation import Replacement, split_parts
    from icl_bench.models.circuits.components import mean_contributions

    heads, components = split_parts(parts)
    layers = {layer for layer, _ in heads}
    if method == "resample":
        outputs = model.head_outputs(held_out, layers)
        return Prepared(Replacement(outputs, frozen=frozen), [held_out])
    values = model.mean_outputs(held_out, prefix, layers) if heads else None
    others = mean_contributions(model, components, held_out, prefix) if components else None
    return Prepared(Replacement(values, others, frozen), [held_out])
