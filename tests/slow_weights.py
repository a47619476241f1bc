"""Weights of small models as whole matrices, one family at a time: what circuits are compared with.

Nothing here is used by the package. Everything is float64 and d_model x d_model or larger.
"""

from __future__ import annotations

import torch


class Weights:
    """A head's W_Q, W_K, W_V (head width, width) and W_O (width, head width), norms folded.

    The gains of norms over queries and keys are in W_Q and W_K.

    Args:
        module: a model of `circuit_families` with 4 heads.
        name: its family.
    """

    def __init__(self, module, name):
        self.w = {key: p.detach().double() for key, p in module.state_dict().items()}
        self.name, self.heads = name, 4
        self.width = next(p.shape[1] for k, p in self.w.items() if k.endswith("lm_head.weight"))
        self.centre = torch.eye(self.width, dtype=torch.float64) - 1 / self.width
        self.layer_norm = name in ("gpt2", "icl_reference")
        self.eps = 1e-5 if self.layer_norm else module.config.rms_norm_eps

    def gain(self, key):
        return self.w[key] + 1 if self.name in ("gemma2", "gemma3") else self.w[key]

    def norm_matrix(self, key):
        """Gain times centring."""
        matrix = self.gain(key).diag()
        return matrix @ self.centre if self.layer_norm else matrix

    def normed(self, x):
        """The norm's statistics alone: no gain, no bias."""
        if self.name == "olmo2":
            return x
        x = x - x.mean(-1, keepdim=True) if self.layer_norm else x
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def parts(self, layer):
        """W_Q, W_K, W_V as (rows, width) and W_O (width, rows), without norms."""
        if self.name == "gpt2":
            joint = self.w[f"transformer.h.{layer}.attn.c_attn.weight"].T
            out = self.w[f"transformer.h.{layer}.attn.c_proj.weight"].T
            return *joint.chunk(3), out
        place = f"model.layers.{layer}.self_attn."
        return [self.w[f"{place}{part}_proj.weight"] for part in ("q", "k", "v", "o")]

    def head(self, layer, head):
        q, k, v, out = self.parts(layer)
        wide = len(q) // self.heads
        own = slice(head * wide, (head + 1) * wide)
        group = head * len(k) // len(q)
        shared = slice(group * wide, (group + 1) * wide)
        if self.name == "gpt2":
            before = self.norm_matrix(f"transformer.h.{layer}.ln_1.weight")
        elif self.name == "olmo2":
            before = torch.eye(self.width, dtype=torch.float64)
        else:
            before = self.norm_matrix(f"model.layers.{layer}.input_layernorm.weight")
        out = out[:, own]
        if self.name in ("gemma2", "gemma3", "olmo2"):
            key = f"model.layers.{layer}.post_attention_layernorm.weight"
            out = self.norm_matrix(key) @ out
        q, k, v = q[own] @ before, k[shared] @ before, v[shared] @ before
        if f"model.layers.{layer}.self_attn.q_norm.weight" in self.w:
            place = f"model.layers.{layer}.self_attn."
            by_query, by_key = (self.gain(f"{place}{n}_norm.weight") for n in ("q", "k"))
            if len(by_query) > wide:  # one norm over all heads
                by_query, by_key = by_query[own], by_key[shared]
            q, k = by_query[:, None] * q, by_key[:, None] * k
        return q, k, v, out

    def unembed(self, ids):
        """Centred unembedding with the final norm folded in, (ids, width)."""
        matrix = self.w["lm_head.weight"]
        final = "transformer.ln_f.weight" if self.name == "gpt2" else "model.norm.weight"
        return (matrix[ids] - matrix.mean(0)) @ self.norm_matrix(final)
