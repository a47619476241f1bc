"""Switching off MLP blocks and whole layers, per row of the batch.

An MLP that is off adds nothing to the residual stream, or its mean contribution. A layer that is
off hands on its input, or its input and its mean contribution. Heads may be off in the same
forward pass (`ForwardHooks.ablation`), and the layers below the first one named may be shared
(`icl_bench.models.attention.prefix`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icl_bench.errors import MeasurementError
from icl_bench.models.attention.ablation import Component
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.residual.anatomy import Anatomy
from icl_bench.models.residual.trace import first_tensor, layer_input

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Off = dict[int, Tensor]


@dataclass
class ComponentAblation:
    """MLP blocks and layers to switch off, per row of the batch.

    Args:
        mlps: layer -> in which rows its MLP is off, boolean, shape (rows,).
        layers: layer -> in which rows the whole layer is off, boolean, shape (rows,).
        values: component -> what it contributes instead, shape (width,); None for nothing.

    After a pass:
        applied: the components that were switched off.
    """

    mlps: Off = field(default_factory=dict)
    layers: Off = field(default_factory=dict)
    values: Mapping[Component, Tensor] | None = None
    applied: set[Component] = field(default_factory=set)

    @classmethod
    def build(
        cls,
        rows: Sequence[Sequence[Component]],
        values: Mapping[Component, Tensor] | None = None,
    ) -> ComponentAblation:
        """Make an ablation from one set of components per row.

        Args:
            rows: for each row of the batch, the components that are off in it.
            values: stand-ins as in the class.
        """
        ablation = cls(values=values)
        for row, components in enumerate(rows):
            for kind, layer in components:
                off = ablation.mlps if kind == "mlp" else ablation.layers
                off.setdefault(layer, torch.zeros(len(rows), dtype=torch.bool))[row] = True
        return ablation

    @property
    def named(self) -> set[Component]:
        """Every component that is off in some row."""
        mlps: set[Component] = {("mlp", layer) for layer in self.mlps}
        return mlps | {("layer", layer) for layer in self.layers}

    @property
    def missed(self) -> set[Component]:
        """Components that are off in some row and have not been called yet."""
        return self.named - self.applied

    def value(self, component: Component, like: Tensor) -> Tensor:
        """Return what stands in for a component's contribution, shape (width,)."""
        if self.values is None:
            return like.new_zeros(like.shape[-1])
        return self.values[component].to(like)


@contextmanager
def switched_off(anatomy: Anatomy, ablation: ComponentAblation) -> Iterator[None]:
    """Let every forward pass inside the block run with the components off.

    Args:
        anatomy: of the model that is run, `Model.anatomy`.
        ablation: what is off; its `missed` tells after a pass what did not act.

    Raises:
        NotMeasurable: the MLP of a named layer is not known.
        MeasurementError: a component has no stand-in although others have.
    """
    anatomy.require_mlps(sorted(ablation.mlps))
    if ablation.values is not None and (lacking := ablation.named - ablation.values.keys()):
        raise MeasurementError(f"nothing is given to stand in for {list_names(lacking)}")
    with ExitStack() as stack:
        for index, off in ablation.mlps.items():
            layer = anatomy.layers[index]
            for number, module in enumerate(layer.mlps):
                # Of two modules that write together, the first takes the stand-in for both.
                share = 0.0 if number else 1 / layer.mlp_multipliers[0]
                hook = _replace_mlp(ablation, index, off, share)
                stack.callback(module.register_forward_hook(hook).remove)
        for index, off in ablation.layers.items():
            module = anatomy.modules[index]
            handle = module.register_forward_hook(
                _replace_layer(ablation, index, off), with_kwargs=True
            )
            stack.callback(handle.remove)
        yield


def _replace_mlp(
    ablation: ComponentAblation, index: int, off: Tensor, share: float
) -> Callable[..., Any]:
    def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        written = first_tensor(output)
        assert written is not None
        component: Component = ("mlp", index)
        value = ablation.value(component, written) * share
        # Some families flatten rows and positions before their MLP.
        rows = written.reshape(len(off), -1, written.shape[-1])
        mask = off.to(written.device)[:, None, None]
        ablation.applied.add(component)
        return put_back(output, torch.where(mask, value, rows).reshape(written.shape))

    return replace


def _replace_layer(ablation: ComponentAblation, index: int, off: Tensor) -> Callable[..., Any]:
    def replace(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        before, after = layer_input(args, kwargs), first_tensor(output)
        assert after is not None
        component: Component = ("layer", index)
        instead = before + ablation.value(component, before)
        ablation.applied.add(component)
        return put_back(output, torch.where(off.to(after.device)[:, None, None], instead, after))

    return replace


def put_back(output: Any, changed: Tensor) -> Any:
    """Return a module's output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return changed
    first = next(i for i, value in enumerate(output) if isinstance(value, Tensor))
    return type(output)([*output[:first], changed, *output[first + 1 :]])


def mean_contributions(
    model: Model, components: Sequence[Component], input_ids: Tensor, prefix: int
) -> dict[Component, Tensor]:
    """Mean contribution of MLPs and layers to the residual stream over content positions.

    Args:
        model: the model.
        components: which.
        input_ids: a held-out batch, (rows, prefix + length).
        prefix: positions to leave out at the front.

    Returns:
        component -> (width,), float32.

    Raises:
        NotMeasurable: the MLP of a named layer is not known.
    """
    anatomy = model.anatomy
    anatomy.require_mlps(sorted(layer for kind, layer in components if kind == "mlp"))
    rows, length = input_ids.shape
    model.require_context(length)
    sums: dict[Component, Tensor] = {}

    def add(component: Component, contribution: Tensor) -> None:
        per_row = contribution.reshape(-1, length, contribution.shape[-1])
        total = per_row[:, prefix:].double().sum((0, 1)).cpu()
        sums[component] = sums[component] + total if component in sums else total

    with _watching(anatomy, components, add):
        step = model.limit.rows(length)
        for start in range(0, rows, step):
            model.run_pass(input_ids[start : start + step], ForwardHooks(), logits=False)
    count = rows * (length - prefix)
    return {component: (total / count).float() for component, total in sums.items()}


@contextmanager
def _watching(
    anatomy: Anatomy, components: Sequence[Component], add: Callable[[Component, Tensor], None]
) -> Iterator[None]:
    """Call `add` with what each component adds to the residual stream in the passes inside."""

    def watch_mlp(index: int, multiplier: float) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            written = first_tensor(output)
            assert written is not None
            add(("mlp", index), written * multiplier)

        return watch

    def watch_layer(index: int) -> Callable[..., None]:
        def watch(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            before, after = layer_input(args, kwargs), first_tensor(output)
            assert after is not None
            add(("layer", index), after - before)

        return watch

    with ExitStack() as stack:
        for kind, index in set(components):
            if kind == "mlp":
                layer = anatomy.layers[index]
                for module, multiplier in zip(layer.mlps, layer.mlp_multipliers):
                    hook = watch_mlp(index, multiplier)
                    stack.callback(module.register_forward_hook(hook).remove)
            else:
                hook, module = watch_layer(index), anatomy.modules[index]
                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def list_names(components: set[Component]) -> str:
    """Return components in words, e.g. `layer 2, mlp 3`."""
    return ", ".join(f"{kind} {layer}" for kind, layer in sorted(components))
