"""Tokens that a model has no embedding for: said where random tokens are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.design.settings import TokenPool

WORTH_SAYING = 0.01
"""Share of the ids without an embedding from which on it is said."""


def remark_bare(model: Model, token_pool: TokenPool, *metrics: str) -> dict[str, str]:
    """Return a remark on some metrics where many of the ids drawn have no embedding; else none.

    Args:
        model: the model.
        token_pool: which ids are drawn.
        metrics: names of metrics that suffer from it.
    """
    bare, drawn = model.bare_tokens(token_pool), len(model.pool(token_pool))
    if bare < WORTH_SAYING * drawn:
        return {}
    told = f"{bare} of the {drawn} token ids drawn from have next to no embedding"
    if token_pool == "uniform":
        fewer = model.bare_tokens("frequent")
        told += f"; 'token_pool: frequent' leaves all but {fewer} out"
    return dict.fromkeys(metrics, told)
