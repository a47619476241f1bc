"""Forward passes written out by hand in float64, head by head: what circuits are compared with.

Each class knows one family's formulas from its weights alone. Nothing here is used by the package.
"""

from __future__ import annotations

import torch


def rms(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def rotate(x, theta=10000.0):
    """Rotary positions of one head's (length, width)."""
    length, width = x.shape
    half = width // 2
    result = torch.empty_like(x)
    places = torch.arange(length, dtype=x.dtype)
    for i in range(half):
        angle = places / theta ** (2 * i / width)
        a, b = x[:, i], x[:, half + i]
        result[:, i] = a * angle.cos() - b * angle.sin()
        result[:, half + i] = b * angle.cos() + a * angle.sin()
    return result


class SlowModel:
    """What all families share: causal attention, one head at a time, and what is frozen.

    Subclasses give `embed`, `project` (layer, stream -> q, k, v, each a list over query heads),
    `out` (layer, head -> matrix, bias of the layer), `mlp`, `final`, `unembed`.
    """

    def __init__(self, module, heads=4, layers=3):
        self.w = {name: p.detach().double() for name, p in module.state_dict().items()}
        self.config, self.heads, self.layers = module.config, heads, layers

    def pattern(self, q, k):
        scores = q @ k.T * q.shape[-1] ** -0.5
        future = torch.triu(torch.ones_like(scores), 1).bool()
        return scores.masked_fill(future, float("-inf")).softmax(-1)

    def attend(self, q, k, v):
        return self.pattern(q, k) @ v

    def post(self, layer, summed):
        """The norm after attention; none here."""
        return summed

    def freeze(self, layer, part, summed):
        """What a part of the sum becomes in that norm, its statistics those of the sum."""
        return part

    def run(self, ids):
        """Keep each layer's input, every head's contribution, biases and MLPs of one sequence."""
        stream = self.embed(ids)
        self.entered, self.written, self.summed, self.blocks = [], [], [], []
        for layer in range(self.layers):
            self.entered.append(stream)
            q, k, v = self.project(layer, stream)
            parts = []
            for head in range(self.heads):
                parts.append(self.attend(q[head], k[head], v[head]) @ self.out(layer, head).T)
            summed = sum(parts) + self.out_bias(layer)
            self.summed.append(summed)
            self.written.append([self.freeze(layer, part, summed) for part in parts])
            stream = stream + self.post(layer, summed)
            block = self.mlp(layer, stream)
            self.blocks.append(block)
            stream = stream + block
        self.last = stream
        return self.final(stream) @ self.unembed().T

    def out_bias(self, layer):
        return torch.zeros(1, dtype=torch.float64)

    def mlp(self, layer, stream):
        return torch.zeros_like(stream)

    def patched(self, sender, receiver, side):
        """(pattern, what the receiver's output becomes) without the sender in one side."""
        layer, head = receiver
        clean = self.project(layer, self.entered[layer])
        other = self.project(layer, self.entered[layer] - self.written[sender[0]][sender[1]])
        q, k, v = (
            (other if side == name else clean)[place][head]
            for place, name in enumerate(("query", "key", "value"))
        )
        written = self.attend(q, k, v) @ self.out(layer, head).T
        return self.pattern(q, k), self.freeze(layer, written, self.summed[layer])

    def attribute(self, part, target, token):
        """Part of the token's centred logit that a part of the last stream adds."""
        unembed = self.unembed()
        return self.freeze_final(part)[target - 1] @ (unembed[token] - unembed.mean(0))


class SlowLlama(SlowModel):
    def name(self, layer, rest):
        return self.w[f"model.layers.{layer}.{rest}.weight"]

    def embed(self, ids):
        return self.w["model.embed_tokens.weight"][ids]

    def project(self, layer, stream):
        x = rms(stream, self.name(layer, "input_layernorm"), self.config.rms_norm_eps)
        q, k, v = (x @ self.name(layer, f"self_attn.{n}_proj").T for n in "qkv")
        width = q.shape[-1] // self.heads
        group = q.shape[-1] // k.shape[-1]
        qs, ks, vs = [], [], []
        for head in range(self.heads):
            own = head // group
            qs.append(rotate(q[:, head * width : (head + 1) * width]))
            ks.append(rotate(k[:, own * width : (own + 1) * width]))
            vs.append(v[:, own * width : (own + 1) * width])
        return qs, ks, vs

    def out(self, layer, head):
        matrix = self.name(layer, "self_attn.o_proj")
        width = matrix.shape[1] // self.heads
        return matrix[:, head * width : (head + 1) * width]

    def mlp(self, layer, stream):
        x = rms(stream, self.name(layer, "post_attention_layernorm"), self.config.rms_norm_eps)
        return self.gate(layer, x)

    def gate(self, layer, x):
        gate, up, down = (self.name(layer, f"mlp.{n}_proj") for n in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def final(self, stream):
        return rms(stream, self.w["model.norm.weight"], self.config.rms_norm_eps)

    def freeze_final(self, part):
        power = self.last.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps
        return part / power.sqrt() * self.w["model.norm.weight"]

    def unembed(self):
        return self.w["lm_head.weight"]


class SlowOlmo2(SlowLlama):
    """No norm before attention, norms over all queries and keys, and norms after both blocks."""

    def project(self, layer, stream):
        eps = self.config.rms_norm_eps
        q, k, v = (stream @ self.name(layer, f"self_attn.{n}_proj").T for n in "qkv")
        q = rms(q, self.name(layer, "self_attn.q_norm"), eps)
        k = rms(k, self.name(layer, "self_attn.k_norm"), eps)
        width = q.shape[-1] // self.heads
        group = q.shape[-1] // k.shape[-1]
        qs, ks, vs = [], [], []
        for head in range(self.heads):
            own = head // group
            qs.append(rotate(q[:, head * width : (head + 1) * width]))
            ks.append(rotate(k[:, own * width : (own + 1) * width]))
            vs.append(v[:, own * width : (own + 1) * width])
        return qs, ks, vs

    def post(self, layer, summed):
        return rms(summed, self.name(layer, "post_attention_layernorm"), self.config.rms_norm_eps)

    def freeze(self, layer, part, summed):
        power = summed.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps
        return part / power.sqrt() * self.name(layer, "post_attention_layernorm")

    def mlp(self, layer, stream):
        weight = self.name(layer, "post_feedforward_layernorm")
        return rms(self.gate(layer, stream), weight, self.config.rms_norm_eps)


class SlowGPT2(SlowModel):
    def get(self, layer, rest):
        return self.w[f"transformer.h.{layer}.{rest}"]

    def embed(self, ids):
        return self.w["transformer.wte.weight"][ids] + self.w["transformer.wpe.weight"][: len(ids)]

    def norm(self, layer, which, stream):
        weight, bias = self.get(layer, f"{which}.weight"), self.get(layer, f"{which}.bias")
        return layer_norm(stream, weight, bias, self.config.layer_norm_epsilon)

    def project(self, layer, stream):
        x = self.norm(layer, "ln_1", stream)
        joint = x @ self.get(layer, "attn.c_attn.weight") + self.get(layer, "attn.c_attn.bias")
        parts = joint.chunk(3, -1)
        width = parts[0].shape[-1] // self.heads
        return tuple(
            [part[:, head * width : (head + 1) * width] for head in range(self.heads)]
            for part in parts
        )

    def out(self, layer, head):
        matrix = self.get(layer, "attn.c_proj.weight").T
        width = matrix.shape[1] // self.heads
        return matrix[:, head * width : (head + 1) * width]

    def out_bias(self, layer):
        return self.get(layer, "attn.c_proj.bias")

    def mlp(self, layer, stream):
        x = self.norm(layer, "ln_2", stream)
        x = x @ self.get(layer, "mlp.c_fc.weight") + self.get(layer, "mlp.c_fc.bias")
        x = torch.nn.functional.gelu(x, approximate="tanh")
        return x @ self.get(layer, "mlp.c_proj.weight") + self.get(layer, "mlp.c_proj.bias")

    def final(self, stream):
        weight, bias = self.w["transformer.ln_f.weight"], self.w["transformer.ln_f.bias"]
        return layer_norm(stream, weight, bias, self.config.layer_norm_epsilon)

    def freeze_final(self, part):
        power = self.last.var(-1, keepdim=True, correction=0) + self.config.layer_norm_epsilon
        centred = part - part.mean(-1, keepdim=True)
        return centred / power.sqrt() * self.w["transformer.ln_f.weight"]

    def unembed(self):
        return self.w["lm_head.weight"]


class SlowReference(SlowModel):
    def name(self, layer, rest):
        return self.w[f"model.layers.{layer}.{rest}"]

    def embed(self, ids):
        positions = self.w["model.embed_positions.weight"][: len(ids)]
        return self.w["model.embed_tokens.weight"][ids] + positions

    def project(self, layer, stream):
        weight = self.name(layer, "input_layernorm.weight")
        bias = self.name(layer, "input_layernorm.bias")
        x = layer_norm(stream, weight, bias, self.config.layer_norm_eps)
        parts = [x @ self.name(layer, f"self_attn.{n}_proj.weight").T for n in "qkv"]
        width = parts[0].shape[-1] // self.heads
        return tuple(
            [part[:, head * width : (head + 1) * width] for head in range(self.heads)]
            for part in parts
        )

    def out(self, layer, head):
        matrix = self.name(layer, "self_attn.o_proj.weight")
        width = matrix.shape[1] // self.heads
        return matrix[:, head * width : (head + 1) * width]

    def final(self, stream):
        weight, bias = self.w["model.norm.weight"], self.w["model.norm.bias"]
        return layer_norm(stream, weight, bias, self.config.layer_norm_eps)

    def freeze_final(self, part):
        power = self.last.var(-1, keepdim=True, correction=0) + self.config.layer_norm_eps
        centred = part - part.mean(-1, keepdim=True)
        return centred / power.sqrt() * self.w["model.norm.weight"]

    def unembed(self):
        return self.w["lm_head.weight"]


SLOW = {
    "llama": SlowLlama,
    "olmo2": SlowOlmo2,
    "gpt2": SlowGPT2,
    "icl_reference": SlowReference,
}
