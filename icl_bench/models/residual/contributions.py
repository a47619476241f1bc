"""What heads and MLPs write into the residual stream on a clean run.

A head's contribution is its slice of W_O applied to its output, times the scale that a norm
between attention and residual stream had on the clean run, times the residual multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.ablation import Head
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.residual.anatomy import Anatomy
from icl_bench.models.residual.norms import NotLinear
from icl_bench.models.residual.trace import first_tensor, layer_input

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass
class Wanted:
    """What to keep of a clean run.

    Args:
        heads: layers whose heads' outputs are kept.
        entered: layers whose input is kept.
        rest: keep all else that adds to the residual stream: embedding, MLPs, other layers.
        final: keep what enters and leaves the final norm.
        positions: physical positions to keep in `heads`, `rest` and `final`; None for all.
    """

    heads: Iterable[int] = ()
    entered: Iterable[int] = ()
    rest: bool = False
    final: bool = False
    positions: Tensor | None = None


@dataclass
class CleanRun:
    """What was kept of a clean run; shapes begin with (rows, positions).

    Args:
        anatomy: of the model.
        outputs: layer -> outputs of its heads, (..., heads, width).
        scales: layer -> scale of the norm after its attention, (..., 1), where there is one.
        entered: layer -> the residual stream that entered it, (rows, length, width).
        rest: layer -> what its MLP added, or the whole layer where it has no heads, (..., width).
        last: the residual stream before the final norm, (..., width).
        normed: the same after the final norm.
        wrapped: whether layers return a tuple around the residual stream.
    """

    anatomy: Anatomy
    outputs: dict[int, Tensor] = field(default_factory=dict)
    scales: dict[int, Tensor] = field(default_factory=dict)
    entered: dict[int, Tensor] = field(default_factory=dict)
    rest: dict[int, Tensor] = field(default_factory=dict)
    last: Tensor | None = None
    normed: Tensor | None = None
    wrapped: bool = False

    def contribution(
        self, heads: Sequence[Head], values: dict[int, Tensor] | None = None
    ) -> Tensor:
        """Return what some heads write together into the residual stream, (..., width).

        Args:
            heads: which heads; their layers' outputs were kept.
            values: layer -> (heads, width), taken off their outputs first; None for nothing.
        """
        total: Tensor | None = None
        for index in sorted({layer for layer, _ in heads}):
            layer = self.anatomy.layers[index]
            chosen = [head for own, head in heads if own == index]
            outputs = self.outputs[index][..., chosen, :]
            if values is not None:
                outputs = outputs - values[index][chosen].to(outputs)
            matrix = layer.output_matrix().detach()
            matrix = matrix.reshape(len(matrix), layer.heads, layer.width)[:, chosen].flatten(1)
            part = outputs.flatten(-2).float() @ matrix.float().T
            if layer.norm is not None:
                part = layer.norm.apply(part, self.scales[index])
            part = part * layer.multiplier
            total = part if total is None else total + part
        assert total is not None
        return total

    def pull_back(self, index: int, direction: Tensor) -> Tensor:
        """Return the direction in the heads' outputs that moves `direction` in the stream.

        Args:
            index: layer of the heads.
            direction: (..., width), float32.

        Returns:
            (..., heads, head width); its product with an output is that head's part.
        """
        layer = self.anatomy.layers[index]
        direction = direction * layer.multiplier
        if layer.norm is not None:
            direction = layer.norm.pull_back(direction, self.scales[index])
        flat = direction @ layer.output_matrix().detach().float()
        return flat.reshape(*flat.shape[:-1], layer.heads, layer.width)

    def constant(self, index: int) -> Tensor | None:
        """Return what biases of a layer's attention write, (..., width) or (width,), or None."""
        layer = self.anatomy.layers[index]
        bias = layer.output_bias()
        part = None if bias is None else bias.detach().float()
        if layer.norm is not None:
            part = layer.norm.bias + (
                0.0 if part is None else layer.norm.apply(part, self.scales[index])
            )
        return None if part is None else part * layer.multiplier


def run_clean(
    model: Model, ids: Tensor, wanted: Wanted, hooks: ForwardHooks | None = None
) -> CleanRun:
    """Run one batch as it is and keep what is wanted of it.

    Args:
        model: the model.
        ids: (rows, length).
        wanted: what to keep.
        hooks: what else to read in the same pass.

    Raises:
        NotMeasurable: a norm does not do on this batch what it did on the tiny one.
    """
    anatomy = model.anatomy
    run = CleanRun(anatomy)
    rows, length = ids.shape

    def keep(part: Tensor) -> Tensor:
        # Some families flatten rows and positions before their MLP.
        part = part.reshape(rows, length, part.shape[-1])
        return part if wanted.positions is None else part[:, wanted.positions.to(part.device)]

    def keep_outputs(index: int) -> Callable[..., None]:
        layer = anatomy.layers[index]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            kept = keep(args[0])
            run.outputs[index] = kept.reshape(*kept.shape[:2], layer.heads, layer.width)

        return hook

    def keep_scale(index: int) -> Callable[..., None]:
        norm = anatomy.layers[index].norm
        assert norm is not None

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            run.scales[index] = norm.fit_scale(keep(args[0]), keep(output))

        return hook

    def keep_mlp(index: int, multiplier: float) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            written = first_tensor(output)
            assert written is not None
            part = keep(written).float() * multiplier
            run.rest[index] = run.rest[index] + part if index in run.rest else part

        return hook

    def enter(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            run.entered[index] = layer_input(args, kwargs)

        return hook

    def leave(index: int) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            after = first_tensor(output)
            assert after is not None
            run.wrapped = isinstance(output, tuple)
            if wanted.rest and not anatomy.layers[index].heads:
                run.rest[index] = keep(after).float() - keep(layer_input(args, kwargs)).float()
            if wanted.final and index == len(anatomy.modules) - 1:
                run.last = keep(after)

        return hook

    def keep_normed(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        run.normed = keep(output)

    entered = set(wanted.entered) | ({0} if wanted.rest else set())
    with ExitStack() as stack:

        def after(module: nn.Module | None, hook: Callable[..., None], **options: bool) -> None:
            assert module is not None
            stack.callback(module.register_forward_hook(hook, **options).remove)

        for index in wanted.heads:
            layer = anatomy.layers[index]
            after(layer.projection, keep_outputs(index))
            if layer.norm_module is not None:
                after(layer.norm_module, keep_scale(index))
        for index in entered:
            module = anatomy.modules[index]
            stack.callback(module.register_forward_pre_hook(enter(index), with_kwargs=True).remove)
        for index, module in enumerate(anatomy.modules):
            after(module, leave(index), with_kwargs=True)
            layer = anatomy.layers[index]
            for part, multiplier in zip(layer.mlps, layer.mlp_multipliers):
                if wanted.rest and layer.heads:
                    after(part, keep_mlp(index, multiplier))
        unembedding = anatomy.unembedding
        if wanted.final and unembedding is not None and unembedding.norm_module is not None:
            after(unembedding.norm_module, keep_normed)
        try:
            model.run_pass(ids, hooks or ForwardHooks(), logits=False)
        except NotLinear as error:
            raise NotMeasurable(f"a norm's scale cannot be frozen: {error}") from None
    return run


@dataclass
class LogitReading:
    """How the answers' centred logits come from the residual stream of a clean run.

    Args:
        direction: what raises them, in the stream before the final norm, (rows, positions, width).
        total: the centred logits, (rows, positions).
        fixed: the part of them that biases of final norm and unembedding make up, same shape.
    """

    direction: Tensor
    total: Tensor
    fixed: Tensor


def read_logits(run: CleanRun, answer: Tensor) -> LogitReading:
    """Return how centred logits are read, with the final norm frozen to the clean run.

    Args:
        run: with `final` kept at the positions that predict the answers.
        answer: token ids, (rows, positions).

    Raises:
        NotMeasurable: the way to the logits is not known.
    """
    unembedding = run.anatomy.require_unembedding()
    direction, fixed = unembedding.directions(answer), unembedding.offset(answer)
    assert run.last is not None
    if unembedding.norm is None:
        return LogitReading(direction, (run.last.float() * direction).sum(-1) + fixed, fixed)
    assert run.normed is not None
    try:
        scale = unembedding.norm.fit_scale(run.last, run.normed)
    except NotLinear as error:
        raise NotMeasurable(f"the final norm cannot be frozen: {error}") from None
    total = (run.normed.float() * direction).sum(-1) + fixed
    fixed = fixed + direction @ unembedding.norm.bias
    return LogitReading(unembedding.norm.pull_back(direction, scale), total, fixed)
