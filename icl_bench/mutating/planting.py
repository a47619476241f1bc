"""Where an edit is planted, and how everything is put back to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.ablation import Head
from icl_bench.models.residual.anatomy import Anatomy, LayerAnatomy
from icl_bench.models.residual.reading import Side
from icl_bench.mutating.rows import Rows, find_rows

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.mutating.edits import Edit


@dataclass
class Ground:
    """What all edits of one open model have in common; read off the unedited weights once.

    Args:
        model: the open model.
        period: tokens from a token to its repetition in the suite.
        seed: of everything that is drawn.
    """

    model: Model
    period: int
    seed: int = 0
    _anatomy: Anatomy | None = None
    _rows: dict[int, dict[Side, Rows]] = field(default_factory=dict)

    @property
    def anatomy(self) -> Anatomy:
        """What writes into the residual stream; module by module it stays as it is."""
        if self._anatomy is None:
            self._anatomy = self.model.anatomy
        return self._anatomy

    def rows(self, layer: int) -> dict[Side, Rows]:
        """Return side -> the rows of weights that make a layer's queries, keys or values.

        Args:
            layer: the layer.

        Raises:
            NotMeasurable: they cannot be told.
        """
        if layer not in self._rows:
            self._rows[layer] = find_rows(self.model, self.anatomy, layer)
        return self._rows[layer]

    def every_row(self) -> dict[int, dict[Side, Rows]]:
        """Return layer -> rows, of all layers with attention, found before any is changed."""
        return {layer: self.rows(layer) for layer in sorted(self.model.shapes)}


@dataclass
class Site:
    """One open model with one edit in it.

    Args:
        ground: the model.
        head: where the edit is planted; None for the whole model.
        lowest: the lowest layer that the edit may change; what enters it stays.
        batch_size: rows of a forward pass where the edit is about that.
    """

    ground: Ground
    head: Head | None = None
    lowest: int = 0
    batch_size: int | None = None
    _undo: ExitStack = field(default_factory=ExitStack)
    _kept: set[int] = field(default_factory=set)

    @property
    def model(self) -> Model:
        """The open model."""
        return self.ground.model

    @property
    def place(self) -> Head:
        """The head at which the edit is planted."""
        assert self.head is not None
        return self.head

    def layer(self) -> LayerAnatomy:
        """Return what writes in the layer of the place.

        Raises:
            NotMeasurable: what its heads write is not known.
        """
        layer = self.place[0]
        self.ground.anatomy.require_heads([layer])
        return self.ground.anatomy.layers[layer]

    def generator(self, *more: int) -> torch.Generator:
        """Return the edit's own random numbers.

        Args:
            more: what tells one use from another.
        """
        number = self.ground.seed
        for part in (*(self.head or (0, 0)), *more):
            number = number * 1009 + part + 1
        return torch.Generator().manual_seed(number % 2**63)

    def keep(self, tensor: Tensor | None) -> Tensor:
        """Return a weight that may be changed in place from now on; it is put back as it was.

        Args:
            tensor: a parameter or buffer.

        Raises:
            NotMeasurable: it has no plain values, as packed weights or weights on another device.
        """
        if tensor is None or tensor.is_meta or not tensor.is_floating_point():
            raise NotMeasurable("its weights are packed or not in memory, and cannot be edited")
        if tensor.data_ptr() not in self._kept:
            self._kept.add(tensor.data_ptr())
            before = tensor.detach().clone()
            self._undo.callback(_put_back, tensor, before)
        return tensor.detach()

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute until the edit is taken out.

        Args:
            owner: whose.
            name: of the attribute.
            value: its value meanwhile.
        """
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def hook(self, module: nn.Module, change: Callable[[Any], Any]) -> None:
        """Let what a module returns be changed.

        Args:
            module: the module.
            change: gets the output, returns what stands in for it.
        """

        def act(_: nn.Module, __: Any, output: Any) -> Any:
            return change(output)

        self._undo.callback(module.register_forward_hook(act).remove)

    def undo(self, call: Callable[[], Any]) -> None:
        """Call something when the edit is taken out."""
        self._undo.callback(call)

    def during(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context, and leave it when the edit is taken out."""
        self._undo.enter_context(context)

    def clear(self) -> None:
        """Put everything back."""
        self._kept.clear()
        self._undo.close()


def _put_back(tensor: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(before)


@contextmanager
def planted(edit: Edit, ground: Ground, head: Head | None) -> Iterator[Site]:
    """Plant an edit for the duration of the block.

    Args:
        edit: which.
        ground: the model.
        head: where; None for the whole model.

    Raises:
        NotMeasurable: the model's family has no such thing; nothing is changed then.
    """
    site = Site(ground, head, lowest=0 if head is None else head[0])
    try:
        with torch.no_grad():
            edit.plant(site)
        yield site
    finally:
        site.clear()
