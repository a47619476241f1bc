"""Edits of rotary positions.

How a layer turns queries from one position to the next is read off its own code: the same
residual stream enters at positions 0 and 1, and what makes one query of the other is a linear map.
Frequencies stand in buffers called `inv_freq`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.layers import current_layer
from icl_bench.models.attention.partial_forward import Left, enter_layer, require_partial_forward
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.residual.contributions import Wanted, run_clean
from icl_bench.mutating.calls import Given, change_calls, require_interface
from icl_bench.mutating.heads import sides_of
from icl_bench.mutating.planting import Site

NONE = "its positions are not rotary"
USUAL, OTHER = 10_000.0, 500_000.0
"""The base that `rope-base` puts in place of another one, and in place of itself."""
WITHIN = 1e-3
AHEAD = 7
"""Positions by which `positions-shifted` moves all of them."""


def read_turn(site: Site, layer: int) -> Tensor:
    """Return the map from a query at position 0 to the same one at position 1, (width, width).

    It is the identity in a layer without rotary positions.

    Args:
        site: the model.
        layer: a layer with attention.

    Raises:
        NotMeasurable: queries cannot be had, or there is no such map.
    """
    model = site.model
    require_partial_forward(model, "edited")
    width = len(site.ground.anatomy.layers[layer].output_matrix())
    wrapped = run_clean(model, torch.tensor([model.vocabulary[:1]]), Wanted()).wrapped
    draws = torch.Generator().manual_seed(1)
    found: list[Tensor] = []

    def keep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> NoReturn:
        found.append(q.double().cpu())
        raise Left

    head_width = 0
    while not found or sum(map(len, found)) * found[0].shape[1] < 4 * head_width:
        entering = torch.randn(64, 1, width, generator=draws).expand(-1, 2, -1)
        entering = entering.to(model.runner.device, model.embedding.dtype)
        ids = torch.full((64, 2), model.vocabulary[0])
        enter_layer(model, ids, Stream(layer, entering, wrapped), ForwardHooks(swap=keep))
        head_width = found[0].shape[-1]
    queries = torch.cat(found)
    before, after = (queries[:, :, place].flatten(0, 1) for place in (0, 1))
    turn: Tensor = torch.linalg.lstsq(before, after).solution.T
    error = float((before @ turn.T - after).norm() / after.norm().clamp_min(1e-20))
    half = model.embedding.dtype not in (torch.float32, torch.float64)
    if error > (5e-2 if half else WITHIN):
        raise NotMeasurable(f"layer {layer}: its queries are not turned by position")
    return turn


def _read_turns(site: Site) -> dict[int, Tensor]:
    """The turn of every layer that has one."""
    turns = {layer: read_turn(site, layer) for layer in sorted(site.model.shapes)}
    turned = {
        layer: turn
        for layer, turn in turns.items()
        if float((turn - torch.eye(len(turn), dtype=turn.dtype)).abs().max()) > 0.05
    }
    if not turned:
        raise NotMeasurable(NONE)
    return turned


def shift_queries(site: Site) -> None:
    """Turn all queries by one position more."""
    require_interface(site)
    turns = _read_turns(site)
    owners = _attention_modules(site)

    def change(call: Given) -> Given:
        layer = owners.get(call.module, current_layer())
        turn = turns.get(layer) if layer is not None else None
        return call if turn is None else replace(call, query=call.query @ turn.T.to(call.query))

    change_calls(site, change)


def _attention_modules(site: Site) -> dict[nn.Module, int]:
    return {
        module: number
        for number, layer in enumerate(site.ground.anatomy.modules)
        for module in layer.modules()
    }


def find_pairs(turn: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of channels that a turn mixes, by their first channel.

    Args:
        turn: as `read_turn` returns it.

    Raises:
        NotMeasurable: it mixes others than pairs.
    """
    off = turn - torch.diag(turn.diagonal())
    pairs = []
    for channel in range(len(turn)):
        partner = int(off[channel].abs().argmax())
        if channel < partner and float(off[channel, partner].abs()) > 1e-9:
            pairs.append((channel, partner))
    channels = [one for pair in pairs for one in pair]
    if not pairs or len(set(channels)) != len(channels):
        raise NotMeasurable("its rotary channels are not in pairs")
    return pairs


def other_layout(pairs: list[tuple[int, int]], width: int) -> Tensor:
    """Return the order of channels that lets a turn pair them the other way, shape (width,).

    Channel i of a reordered head is channel order[i] of the old one: neighbours where pairs were
    halves apart, halves apart where they were neighbours.

    Args:
        pairs: the channels that are turned together.
        width: of a head.
    """
    channels = sorted(one for pair in pairs for one in pair)
    count = len(pairs)
    neighbours = all(b - a == 1 for a, b in pairs)
    order = torch.arange(width)
    for number, (first, second) in enumerate(pairs):
        a, b = (number, number + count) if neighbours else (2 * number, 2 * number + 1)
        order[first], order[second] = channels[a], channels[b]
    return order


def cut_otherwise(site: Site) -> None:
    """Reorder the rows of queries and keys, so that rotary pairs are cut the other way."""
    turns, _ = _read_turns(site), site.ground.every_row()
    for layer, turn in turns.items():
        order = other_layout(find_pairs(turn), len(turn))
        found = sides_of(site, layer)
        for rows, side in ((found["query"], "query"), (found["key"], "key")):
            if not rows.direct:
                raise NotMeasurable(
                    f"layer {layer}: a norm stands between its {side} and attention"
                )
            for group in range(len(rows.index)):
                rows.write(group, [tensor[order] for tensor in rows.read(group)])


def frequencies(site: Site) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield each module with rotary frequencies, the name of its buffer, and the buffer.

    Raises:
        NotMeasurable: there is none.
    """
    found = False
    for module in site.model.model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name.endswith("inv_freq") and not name.endswith("original_inv_freq"):
                found = True
                yield module, name, buffer
    if not found:
        raise NotMeasurable("it has no buffer of rotary frequencies (inv_freq)")


def base_of(buffer: Tensor) -> float:
    """Return the base that frequencies base^(-i/n), i from 0 to n - 1, were made with.

    Args:
        buffer: the frequencies, (n,); scaling may have changed all but the first two.
    """
    return float(buffer[0] / buffer[1]) ** len(buffer)


def unscaled(base: float, buffer: Tensor) -> Tensor:
    """Return the frequencies of a base, without scaling, in the shape of a buffer."""
    steps = torch.arange(len(buffer), dtype=torch.float64) / len(buffer)
    return (base**-steps).to(buffer)


def change_base(site: Site) -> None:
    """Make rotary frequencies with base 10,000, or with 500,000 where that is their own."""
    for _, _, buffer in frequencies(site):
        base = base_of(buffer)
        other = OTHER if math.isclose(base, USUAL, rel_tol=1e-2) else USUAL
        kept = site.keep(buffer)
        kept.mul_(unscaled(other, buffer) / unscaled(base, buffer))


def drop_scaling(site: Site) -> None:
    """Give rotary frequencies the values that they have without scaling."""
    changed = False
    for module, name, buffer in list(frequencies(site)):
        plain = unscaled(base_of(buffer), buffer)
        factor = f"{name.removesuffix('inv_freq')}attention_scaling"
        scaled = getattr(module, factor, 1.0) != 1.0
        if scaled or not torch.allclose(plain, buffer, rtol=1e-2):
            changed = True
            site.keep(buffer).copy_(plain)
            if scaled:
                site.set(module, factor, 1.0)
    if not changed:
        raise NotMeasurable("its rotary frequencies are not scaled")


def _positions_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
    if not isinstance(found, Tensor):
        raise NotMeasurable("its rotary module is not given positions")
    return found


def _angles(positions: Tensor, buffer: Tensor) -> Tensor:
    return positions[..., None].to(buffer.dtype) * buffer


def round_positions(site: Site) -> None:
    """Compute rotary angles from positions and frequencies in bfloat16."""
    modules = {module: name for module, name, _ in frequencies(site)}
    several = len(list(frequencies(site))) != len(modules)
    if several:
        raise NotMeasurable("its layers have rotary frequencies of several kinds in one module")
    for module, name in modules.items():
        site.undo(module.register_forward_hook(_rounder(module, name), with_kwargs=True).remove)
    _try(site)


def _rounder(module: nn.Module, name: str) -> Any:
    def act(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not (isinstance(output, tuple) and len(output) == 2):
            raise NotMeasurable("its rotary module does not return cosines and sines")
        cos, sin = output
        buffer = getattr(module, name)
        positions = _positions_of(args, kwargs)
        factor = float(getattr(module, "attention_scaling", 1.0))
        exact = _angles(positions, buffer.float())
        rounded = _angles(positions.bfloat16(), buffer.bfloat16()).float()
        for spread in (_halves, _neighbours, _once):
            ours = spread(exact).cos() * factor
            if ours.shape == cos.shape and float((ours - cos.float()).abs().max()) < 1e-2:
                angles = spread(rounded)
                return (angles.cos() * factor).to(cos), (angles.sin() * factor).to(sin)
        raise NotMeasurable("its rotary angles are not positions times frequencies")

    return act


def _halves(angles: Tensor) -> Tensor:
    return torch.cat([angles, angles], -1)


def _neighbours(angles: Tensor) -> Tensor:
    return angles.repeat_interleave(2, -1)


def _once(angles: Tensor) -> Tensor:
    return angles


def shift_positions(site: Site) -> None:
    """Let all rotary positions be higher by the same amount."""
    for module in {module for module, _, _ in frequencies(site)}:
        site.undo(module.register_forward_pre_hook(_shifter(), with_kwargs=True).remove)
    _try(site)


def _shifter() -> Any:
    def act(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        moved = _positions_of(args, kwargs) + AHEAD
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": moved}
        return (args[0], moved, *args[2:]), kwargs

    return act


def _try(site: Site) -> None:
    """Run two tokens, for what cannot be planted to be told at once."""
    site.model.run_pass(torch.tensor([site.model.vocabulary[:2]]), ForwardHooks(), logits=False)
