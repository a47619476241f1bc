"""How many tokens back a model's attention sees."""

from __future__ import annotations

from typing import Any

LOCAL = ("sliding_attention", "chunked_attention", "hybrid_sliding", "local")
"""What configs call layers that see a window or a chunk."""
NO_HEADS = ("linear_attention", "conv", "mamba", "mamba2", "recurrent", "moe", "mlp")
"""What they call layers without heads."""
WINDOWS = ("sliding_window", "sliding_window_size", "window_size", "attention_window_size")


def attention_reach(config: Any) -> int | None:
    """Return how many tokens back the layer that sees farthest sees, None without a bound.

    Args:
        config: of the model's text part.
    """
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds is None and (
        getattr(config, "use_sliding_window", True) is False
        or getattr(config, "max_window_layers", None)
    ):
        return None
    seeing = {kind for kind in kinds or ["local"] if kind not in NO_HEADS}
    if not seeing or not seeing.issubset(LOCAL):
        return None
    chunked = seeing == {"chunked_attention"}
    names = ("attention_chunk_size",) if chunked else WINDOWS
    sizes = [size for name in names if isinstance(size := getattr(config, name, None), int)]
    # A window holds the query itself.
    return max(sizes) - 1 if sizes and max(sizes) > 0 else None
