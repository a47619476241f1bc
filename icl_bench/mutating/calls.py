"""Edits of what the attention function is called with, in every implementation alike.

The functions of transformers' attention interface are wrapped meanwhile, the model's own eager
function among them, so that the path that measures and those that check it see the same model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from icl_bench.errors import NotMeasurable
from icl_bench.mutating.planting import Site

SCALE = 0.5**0.5
"""Factor on the scores of `softmax-scale`."""
THROUGH_INTERFACE = ("fused", "chunked", "eager")
"""Paths on which a model calls its attention through transformers' interface."""


@dataclass(frozen=True)
class Given:
    """What an attention function was called with.

    Args:
        module: the attention module.
        query: (batch, heads, length, width).
        key: (batch, groups, length, width).
        value: the same, of the values' width.
        mask: additive, boolean with True where a key is seen, or None.
        scaling: factor of the scores; None for 1 / sqrt(width).
        more: further arguments.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float | None
    more: dict[str, Any] = field(default_factory=dict)

    def positions(self) -> tuple[Tensor, Tensor]:
        """Return positions of queries (length, 1) and of keys (1, length)."""
        device = self.query.device
        queries = torch.arange(self.query.shape[2], device=device)
        return queries[:, None], torch.arange(self.key.shape[2], device=device)[None]

    def seen(self, change: Callable[[Tensor], Tensor], unmasked: float = 0.0) -> Given:
        """Return the call with another mask.

        Args:
            change: gets which keys are seen, boolean, returns which are seen now.
            unmasked: what an additive mask adds where a key is seen that was not.
        """
        queries, keys = self.positions()
        if queries.shape[0] == 1:
            return self
        if self.mask is None:
            asked = self.more.get("is_causal")
            causal = getattr(self.module, "is_causal", True) if asked is None else asked
            seen = keys <= queries if causal else torch.ones_like(keys <= queries)
            return replace(self, mask=change(seen)[None, None])
        mask = self.mask[..., : keys.shape[1]]
        if mask.dtype == torch.bool:
            return replace(self, mask=change(mask))
        before = mask > torch.finfo(mask.dtype).min / 2
        after = change(before)
        added = torch.where(after & ~before, unmasked, mask)
        return replace(
            self, mask=torch.where(after, added, torch.finfo(mask.dtype).min).to(mask.dtype)
        )


Change = Callable[[Given], Given]


@contextmanager
def calls_changed(change: Change) -> Iterator[None]:
    """Let every attention function get what `change` makes of its arguments.

    Args:
        change: gets the arguments of a call, returns those that it is made with.
    """
    functions: dict[str, Any] = AttentionInterface._global_mapping
    before = dict(functions)
    try:
        for name in (*before, "eager"):
            functions[name] = _changed(before.get(name), change)
        yield
    finally:
        functions.clear()
        functions.update(before)


def _changed(function: Callable[..., Any] | None, change: Change) -> Callable[..., Any]:
    def call(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **more: Any,
    ) -> Any:
        own = function
        if own is None:  # the model file's own
            own = sys.modules[type(module).__module__].eager_attention_forward
        now = change(Given(module, query, key, value, attention_mask, scaling, more))
        scale = now.query.shape[-1] ** -0.5 if now.scaling is None else now.scaling
        with _own_keys(module, key.shape[1] != now.key.shape[1]):
            return own(module, now.query, now.key, now.value, now.mask, scaling=scale, **now.more)

    return call


@contextmanager
def _own_keys(module: nn.Module, expanded: bool) -> Iterator[None]:
    """Where keys were expanded to one for each head, let nobody expand them again."""
    groups = getattr(module, "num_key_value_groups", None)
    if not expanded or groups is None:
        yield
        return
    module.num_key_value_groups = 1  # type: ignore[assignment]
    try:
        yield
    finally:
        module.num_key_value_groups = groups


def require_interface(site: Site) -> None:
    """Raise NotMeasurable where attention is not called through transformers' interface."""
    if site.model.path not in THROUGH_INTERFACE:
        kind = site.model.model.config.model_type
        raise NotMeasurable(
            f"model type '{kind}' does not call its attention through transformers' interface"
        )


def change_calls(site: Site, change: Change) -> None:
    """Change every attention call while the edit is there.

    Args:
        site: where the edit is.
        change: as for `calls_changed`.

    Raises:
        NotMeasurable: calls cannot be reached.
    """
    require_interface(site)
    site.during(calls_changed(change))


def scale_scores(site: Site) -> None:
    """Divide attention scores by the square root of 2."""

    def change(call: Given) -> Given:
        scale = call.query.shape[-1] ** -0.5 if call.scaling is None else call.scaling
        return replace(call, scaling=scale * SCALE)

    change_calls(site, change)


def drop_softcap(site: Site) -> None:
    """Leave the soft cap of attention scores out."""
    config = site.model.model.config.get_text_config()
    if not getattr(config, "attn_logit_softcapping", None):
        raise NotMeasurable("its attention scores have no soft cap")
    change_calls(site, lambda call: replace(call, more={**call.more, "softcap": None}))


def shorten_window(site: Site) -> None:
    """Let queries see half a period back, themselves included."""
    window = max(1, site.ground.period // 2)

    def change(call: Given) -> Given:
        queries, keys = call.positions()
        return call.seen(lambda seen: seen & (keys > queries - window))

    change_calls(site, change)


def leak(site: Site) -> None:
    """Let queries see the token after their own."""

    def change(call: Given) -> Given:
        queries, keys = call.positions()
        return call.seen(lambda seen: seen | (keys == queries + 1))

    change_calls(site, change)


def evict_sink(site: Site) -> None:
    """Hide the first position from all later queries."""

    def change(call: Given) -> Given:
        queries, keys = call.positions()
        return call.seen(lambda seen: seen & ((keys > 0) | (queries == 0)))

    change_calls(site, change)


def repeat_blocks(site: Site) -> None:
    """Let head h read group h modulo the number of groups, as `repeat` in place of
    `repeat_interleave` does."""
    require_interface(site)
    if not any(1 < groups < heads for heads, groups, _ in site.model.shapes.values()):
        raise NotMeasurable("its heads are not in groups that share keys and values")

    def change(call: Given) -> Given:
        times = call.query.shape[1] // call.key.shape[1]
        if times == 1:
            return call
        key, value = (one.repeat(1, times, 1, 1) for one in (call.key, call.value))
        return replace(call, key=key, value=value)

    change_calls(site, change)
