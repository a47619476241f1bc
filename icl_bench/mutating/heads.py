"""Edits of heads: what they write, what they read, and whose keys and values they use."""

from __future__ import annotations

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.models.residual.reading import Side
from icl_bench.mutating.planting import Site
from icl_bench.mutating.rows import Rows

UPDATE = 0.05
"""Size of the low-rank update of `lora-twice`, as a share of the matrix (Frobenius norms)."""
RANK = 8
ADAPTED: tuple[Side, ...] = ("query", "value")
"""The matrices that adapters usually change."""
KEPT_TOGETHER: tuple[Side, ...] = ("key", "value")
"""What a group of heads shares."""


def written_by(site: Site, head: int) -> Tensor:
    """Return a head's columns of the output projection, to be changed in place.

    Args:
        site: its place says the layer.
        head: the head's number.

    Returns:
        a view, (residual width, head width).
    """
    layer = site.layer()
    assert layer.projection is not None
    site.keep(layer.projection.weight)  # type: ignore[arg-type]
    columns = layer.output_matrix().detach()
    return columns[:, head * layer.width : (head + 1) * layer.width]


def zero(site: Site) -> None:
    """Let a head write nothing."""
    written_by(site, site.place[1]).zero_()


def half(site: Site) -> None:
    """Halve what a head writes."""
    written_by(site, site.place[1]).mul_(0.5)


def ninety(site: Site) -> None:
    """Take a tenth off what a head writes."""
    written_by(site, site.place[1]).mul_(0.9)


def group_of(site: Site, head: int) -> int:
    """Return the key/value group of a head of the place's layer."""
    heads, groups, _ = site.model.shapes[site.place[0]]
    return head // (heads // groups)


def sides_of(site: Site, layer: int) -> dict[Side, Rows]:
    """Return the rows of a layer's sides, kept so that they may be changed.

    Args:
        site: where the edit is.
        layer: the layer.
    """
    sides = site.ground.rows(layer)
    for rows in sides.values():
        for tensor in rows.weights:
            site.keep(tensor)
    return sides


def swap(site: Site, other: int, sides: tuple[Side, ...] = ("query",)) -> None:
    """Exchange sides of two heads of a layer, and what they write.

    Args:
        site: its place is one of the heads.
        other: the other head.
        sides: `query`, and `key` and `value` where every head has its own.
    """
    layer, head = site.place
    found = sides_of(site, layer)
    for name in sides:
        rows = found[name]
        mine, theirs = rows.read(head), rows.read(other)
        rows.write(head, theirs)
        rows.write(other, mine)
    mine_written, their_written = written_by(site, head), written_by(site, other)
    kept = mine_written.clone()
    mine_written.copy_(their_written)
    their_written.copy_(kept)


def swap_across(site: Site) -> None:
    """Exchange queries and outputs of two heads whose keys and values stay where they are."""
    layer, head = site.place
    group = group_of(site, head)
    others = [h for h in range(site.model.heads[layer]) if group_of(site, h) != group]
    if not others:
        raise NotMeasurable("all heads of a layer share one group of keys and values")
    swap(site, _draw(site, others))


def add_key_noise(site: Site) -> None:
    """Add Gaussian noise to the key matrix of a head, as large as its weights."""
    layer, head = site.place
    rows, group = sides_of(site, layer)["key"], group_of(site, head)
    weight, *bias = rows.read(group)
    noise = torch.randn(weight.shape, generator=site.generator(1)).to(weight)
    rows.write(group, [weight + noise * weight.float().std().to(weight), *bias])


def take_neighbour(site: Site) -> None:
    """Let a head's group have the keys and values of the next group."""
    layer, head = site.place
    heads, groups, _ = site.model.shapes[layer]
    if groups in (1, heads):
        raise NotMeasurable("its heads are not in groups that share keys and values")
    group = group_of(site, head)
    found = sides_of(site, layer)
    for side in KEPT_TOGETHER:
        found[side].write(group, found[side].read((group + 1) % groups))


def exchange_keys_values(site: Site) -> None:
    """Exchange keys and values in every layer."""
    for layer in site.ground.every_row():
        found = sides_of(site, layer)
        keys, values = found["key"], found["value"]
        if keys.index.shape != values.index.shape:
            raise NotMeasurable(f"layer {layer}: keys and values differ in width")
        if len(keys.weights) != len(values.weights):
            raise NotMeasurable(f"layer {layer}: only one of keys and values has a bias")
        for group in range(len(keys.index)):
            mine = keys.read(group)
            keys.write(group, values.read(group))
            values.write(group, mine)


def add_update(site: Site) -> None:
    """Add a random low-rank update to queries and values of every layer."""
    for layer in site.ground.every_row():
        found = sides_of(site, layer)
        for number, side in enumerate(ADAPTED):
            rows, draws = found[side], site.generator(2, layer, number)
            whole = [rows.read(group) for group in range(len(rows.index))]
            weight = torch.cat([weight for weight, *_ in whole])
            down = torch.randn(RANK, weight.shape[1], generator=draws)
            update = (torch.randn(len(weight), RANK, generator=draws) @ down).to(weight)
            update *= UPDATE * weight.norm() / update.norm()
            for group, part in enumerate(update.split(rows.index.shape[1])):
                old, *bias = whole[group]
                rows.write(group, [old + part, *bias])


def _draw(site: Site, choices: list[int]) -> int:
    return choices[int(torch.randint(len(choices), (1,), generator=site.generator(3)))]
