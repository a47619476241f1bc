"""What heads and MLPs write into the residual stream on a clean run.

A head's contribution is its slice of W_O applied to its output, times the scale that a norm
between attention and residual stream had on the clean run, times the residual multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    recorder = _Recorder(model.anatomy, wanted, ids.shape)
    with recorder.watching():
        try:
            model.run_pass(ids, hooks or ForwardHooks(), logits=False)
        except NotLinear as error:
            raise NotMeasurable(f"a norm's scale cannot be frozen: {error}") from None
    return recorder.run


class _Recorder:
    """Keeps, as `run`, what is wanted of a pass of one batch, of shape (rows, length)."""

    def __init__(self, anatomy: Anatomy, wanted: Wanted, shape: Sequence[int]) -> None:
        self.anatomy, self.wanted, self.shape = anatomy, wanted, shape
        self.run = CleanRun(anatomy)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the passes inside the block."""
        anatomy, wanted = self.anatomy, self.wanted
        entered = set(wanted.entered) | ({0} if wanted.rest else set())
        with ExitStack() as stack:

            def after(module: nn.Module | None, hook: Callable[..., None], **options: bool) -> None:
                assert module is not None
                stack.callback(module.register_forward_hook(hook, **options).remove)

            for index in wanted.heads:
                layer = anatomy.layers[index]
                after(layer.projection, self._keep_outputs(index))
                if layer.norm_module is not None:
                    after(layer.norm_module, self._keep_scale(index))
            for index in entered:
                hook = self._enter(index)
                handle = anatomy.modules[index].register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            for index, module in enumerate(anatomy.modules):
                after(module, self._leave(index), with_kwargs=True)
                layer = anatomy.layers[index]
                for part, multiplier in zip(layer.mlps, layer.mlp_multipliers):
                    if wanted.rest and layer.heads:
                        after(part, self._keep_mlp(index, multiplier))
            unembedding = anatomy.unembedding
            if wanted.final and unembedding is not None and unembedding.norm_module is not None:
                after(unembedding.norm_module, self._keep_normed)
            yield

    def _keep(self, part: Tensor) -> Tensor:
        # Some families flatten rows and positions before their MLP.
        part, positions = part.reshape(*self.shape, part.shape[-1]), self.wanted.positions
        return part if positions is None else part[:, positions.to(part.device)]

    def _keep_outputs(self, index: int) -> Callable[..., None]:
        layer = self.anatomy.layers[index]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            kept = self._keep(args[0])
            outputs = kept.reshape(*kept.shape[:2], layer.heads, layer.width)
            self.run.outputs[index] = outputs

        return hook

    def _keep_scale(self, index: int) -> Callable[..., None]:
        norm = self.anatomy.layers[index].norm
        assert norm is not None

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self.run.scales[index] = norm.fit_scale(self._keep(args[0]), self._keep(output))

        return hook

    def _keep_mlp(self, index: int, multiplier: float) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            written, rest = first_tensor(output), self.run.rest
            assert written is not None
            part = self._keep(written).float() * multiplier
            rest[index] = rest[index] + part if index in rest else part

        return hook

    def _enter(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.run.entered[index] = layer_input(args, kwargs)

        return hook

    def _leave(self, index: int) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            after = first_tensor(output)
            assert after is not None
            self.run.wrapped = isinstance(output, tuple)
            if self.wanted.rest and not self.anatomy.layers[index].heads:
                before = self._keep(layer_input(args, kwargs)).float()
                self.run.rest[index] = self._keep(after).float() - before
            if self.wanted.final and index == len(self.anatomy.modules) - 1:
                self.run.last = self._keep(after)

        return hook

    def _keep_normed(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.run.normed = self._keep(output)


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
