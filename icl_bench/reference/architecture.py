"""The attention-only decoder of the built-in models, as a transformers architecture.

Token and learned position embeddings, then layers of causal self-attention that add to the
residual stream, then an untied unembedding; no MLP. It takes its attention function from
transformers' attention interface, as library models do, so whatever works on them works here.
There is no key/value cache, hence no `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from icl_bench.errors import ModelError
from icl_bench.reference.configuration import IclReferenceConfig

# transformers 4.x calls the argument `input_embeds` and wants `cache_position`; 5.x does not, and
# from 5.24 on calls `past_key_values` `cache`.
_MASK_ARGUMENTS = frozenset(inspect.signature(create_causal_mask).parameters)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's attention output and its probabilities, computed step by step.

    Args:
        module: the attention layer.
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        value: (batch, heads, keys, head_dim).
        attention_mask: added to the scores; (batch, 1, queries, keys).
        scaling: factor on the scores.
        dropout: probability of dropping an attention weight.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value)
    return output.transpose(1, 2).contiguous(), weights


class IclReferenceAttention(nn.Module):
    """Causal multi-head self-attention without biases."""

    def __init__(self, config: IclReferenceConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_groups = 1
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        inner = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the layer adds to the residual stream, and its attention if available."""
        shape = hidden_states.shape[:-1]
        split = (*shape, self.num_heads, self.head_dim)
        query = self.q_proj(hidden_states).view(split).transpose(1, 2)
        key = self.k_proj(hidden_states).view(split).transpose(1, 2)
        value = self.v_proj(hidden_states).view(split).transpose(1, 2)

        # The look-up of transformers 5 and of 4.57. Each searches this file's text for its own
        # expression before it lets anyone change the attention function, so keep both literal.
        attend: Callable[..., Any] = eager_attention_forward
        if hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface"):
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention_forward
            )
        elif self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*shape, -1).contiguous()), weights


class IclReferenceLayer(nn.Module):
    """One attention layer with its residual connection and optional norm."""

    def __init__(self, config: IclReferenceConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = IclReferenceAttention(config, layer_idx)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attentions: list[torch.Tensor | None] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the residual stream after the layer; append its attention to `attentions`."""
        added, weights = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask=attention_mask, **kwargs
        )
        if attentions is not None:
            attentions.append(weights)
        after: torch.Tensor = hidden_states + added
        return after


class IclReferencePreTrainedModel(PreTrainedModel):
    """What transformers has to know about the family."""

    config_class = IclReferenceConfig
    base_model_prefix = "model"
    _no_split_modules = ["IclReferenceLayer"]  # noqa: RUF012 (the base class declares it so)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class IclReferenceModel(IclReferencePreTrainedModel):
    """Embeddings, attention layers and final norm."""

    def __init__(self, config: IclReferenceConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            IclReferenceLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = _norm(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Return the final residual stream, after the final norm if there is one.

        `use_cache` and `return_dict` are accepted and have no effect.

        Args:
            input_ids: (batch, tokens); or give `inputs_embeds`, (batch, tokens, hidden).
            attention_mask: (batch, tokens), 0 for padding, or a prepared 4-D mask.
            position_ids: (batch, tokens); by default counted from the first unmasked token.
            output_attentions: return every layer's probabilities (eager attention only).
            output_hidden_states: return the residual stream before each layer and at the end.

        Raises:
            ModelError: the sequence is too long, or a cache was given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ModelError("give either input_ids or inputs_embeds to a reference model")
        if past_key_values is not None:
            raise ModelError("reference models have no key/value cache: leave past_key_values out")
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length, longest = embeds.shape[1], self.config.max_position_embeddings
        if length > longest:
            raise ModelError(
                f"a sequence of {length} tokens is longer than the model's context of {longest}"
            )
        if output_attentions is None:
            output_attentions = bool(getattr(self.config, "output_attentions", False))
        if output_hidden_states is None:
            output_hidden_states = bool(getattr(self.config, "output_hidden_states", False))
        if position_ids is None:
            position_ids = _positions(embeds, attention_mask)
        if output_attentions:
            # Attention functions that cannot return probabilities warn when they see this.
            kwargs["output_attentions"] = True
        kwargs["attention_mask"] = _causal_mask(self.config, embeds, attention_mask)
        kwargs["position_ids"] = position_ids
        states, attentions = self._run_layers(embeds + self.embed_positions(position_ids), kwargs)
        complete = output_attentions and len(attentions) == len(self.layers)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if complete else None,
        )

    def _run_layers(
        self, hidden_states: torch.Tensor, arguments: dict[str, Any]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the residual stream before each layer and at the end, and what attention gave."""
        states = [hidden_states]
        attentions: list[torch.Tensor | None] = []
        for layer in self.layers:
            states.append(layer(states[-1], attentions=attentions, **arguments))
        states[-1] = self.norm(states[-1])
        return states, [weights for weights in attentions if weights is not None]


class IclReferenceForCausalLM(IclReferencePreTrainedModel):
    """The model with its unembedding."""

    def __init__(self, config: IclReferenceConfig) -> None:
        super().__init__(config)
        self.model = IclReferenceModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Return logits, and the mean next-token loss in nats if labels are given.

        Args:
            input_ids: (batch, tokens); further arguments as in `IclReferenceModel.forward`.
            labels: (batch, tokens), not shifted; -100 is left out of the loss.
            logits_to_keep: only the last that many positions, or these positions; 0 for all.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
            )
        return CausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _norm(config: IclReferenceConfig) -> nn.Module:
    if config.normalize:
        return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return nn.Identity()


def _positions(embeds: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0)


def _causal_mask(
    config: PretrainedConfig, embeds: torch.Tensor, attention_mask: torch.Tensor | None
) -> Any:
    arguments: dict[str, Any] = {"config": config, "attention_mask": attention_mask}
    arguments["cache" if "cache" in _MASK_ARGUMENTS else "past_key_values"] = None
    arguments["inputs_embeds" if "inputs_embeds" in _MASK_ARGUMENTS else "input_embeds"] = embeds
    if "cache_position" in _MASK_ARGUMENTS:
        arguments["cache_position"] = torch.arange(embeds.shape[1], device=embeds.device)
    # Position ids are withheld: transformers would read a fresh start in them as packed sequences.
    return create_causal_mask(**arguments)


AutoConfig.register("icl_reference", IclReferenceConfig, exist_ok=True)
AutoModel.register(IclReferenceConfig, IclReferenceModel, exist_ok=True)
AutoModelForCausalLM.register(IclReferenceConfig, IclReferenceForCausalLM, exist_ok=True)
