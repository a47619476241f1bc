"""Changes that leave what the model computes as it was, by algebra or but for rounding."""

from __future__ import annotations

import torch

from icl_bench.errors import NotMeasurable
from icl_bench.mutating.heads import group_of, sides_of, swap, written_by
from icl_bench.mutating.planting import Site
from icl_bench.mutating.rotary import read_turn

FACTOR = 2.0
ROWS = 3
"""Rows of a forward pass of `batch-size`."""


def swap_inside(site: Site) -> None:
    """Exchange two heads that use the same keys and values, or that bring their own along."""
    layer, head = site.place
    heads, groups, _ = site.model.shapes[layer]
    own = groups == heads
    others = [
        other
        for other in range(heads)
        if other != head and (own or group_of(site, other) == group_of(site, head))
    ]
    if not others:
        raise NotMeasurable(f"layer {layer} has one head")
    place = int(torch.randint(len(others), (1,), generator=site.generator(3)))
    swap(site, others[place], ("query", "key", "value") if own else ("query",))


def _group(site: Site) -> tuple[int, range]:
    """The group of the place, and its heads."""
    layer, head = site.place
    heads, groups, _ = site.model.shapes[layer]
    size, group = heads // groups, group_of(site, head)
    return group, range(group * size, (group + 1) * size)


def _require_plain(site: Site) -> None:
    rows = site.ground.rows(site.place[0])["value"]
    if not rows.direct:
        raise NotMeasurable("a norm stands between its values and attention")


def scale_values(site: Site) -> None:
    """Double the values of a group, and halve what is read of them."""
    _require_plain(site)
    group, heads = _group(site)
    rows = sides_of(site, site.place[0])["value"]
    rows.write(group, [FACTOR * tensor for tensor in rows.read(group)])
    for head in heads:
        written_by(site, head).div_(FACTOR)


def turn_values(site: Site) -> None:
    """Turn the values of a group by a random orthogonal matrix, and the outputs back."""
    _require_plain(site)
    group, heads = _group(site)
    rows = sides_of(site, site.place[0])["value"]
    width = rows.index.shape[1]
    draws = torch.randn(width, width, generator=site.generator(4), dtype=torch.float64)
    turn = torch.linalg.qr(draws).Q
    rows.write(
        group,
        [(turn.to(tensor.device) @ tensor.double()).to(tensor) for tensor in rows.read(group)],
    )
    for head in heads:
        written = written_by(site, head)
        written.copy_((written.double() @ turn.T.to(written.device)).to(written))


def add_key_bias(site: Site) -> None:
    """Add a constant to a group's keys, which adds the same to every score of a query."""
    layer, _ = site.place
    turn = read_turn(site, layer)
    if float((turn - torch.eye(len(turn), dtype=turn.dtype)).abs().max()) > WITHIN:
        raise NotMeasurable("its positions are rotary, so that a key's constant is none")
    rows = site.ground.rows(layer)["key"]
    if not rows.direct:
        raise NotMeasurable("a norm stands between its keys and attention")
    group, _ = _group(site)
    index = rows.index[group]
    constant = torch.randn(len(index), generator=site.generator(5))

    def change(output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[..., index] += constant.to(output)
        return changed

    site.hook(rows.module, change)


WITHIN = 1e-3
"""How far from the identity the turn of a layer without rotary positions may be."""


def round_weights(site: Site) -> None:
    """Round every weight to bfloat16, in the type that it has."""
    for weight in {id(one): one for one in site.model.model.parameters()}.values():
        kept = site.keep(weight)
        kept.copy_(kept.bfloat16().to(kept))


def change_batch(site: Site) -> None:
    """Let the model run with another batch size."""
    site.batch_size = ROWS if site.model.batch_size != ROWS else ROWS + 1
