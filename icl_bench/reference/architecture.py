"""The attention-only decoder of the built-in models, as a transformers architecture.

Token and learned position embeddings, then layers of causal self-attention that add to the
residual stream, then an untied unembedding; no MLP. It takes its attention function from
transformers' attention interface, as library models do, so whatever works on them works here.
There is no key/value cache, hence no `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from icl_bench.errors import ModelError

# transformers 4.x calls the argument `input_embeds` and wants `cache_position`; 5.x does not, and
# from 5.24 on calls `past_key_values` `cache`.
_MASK_ARGUMENTS = frozenset(inspect.signature(create_causal_mask).parameters)


class IclReferenceConfig(PretrainedConfig):
    """Shape of a reference model.

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream.
        num_hidden_layers: number of attention layers.
        num_attention_heads: heads per layer.
        head_dim: width of a head; heads * head_dim need not be hidden_size.
        max_position_embeddings: longest sequence, in tokens.
        normalize: LayerNorm before each layer and before the unembedding.
        layer_norm_eps: epsilon of these norms.
        initializer_range: standard deviation of fresh weights.
    """

    model_type = "icl_reference"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 400,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 8,
        head_dim: int = 16,
        max_position_embeddings: int = 256,
        normalize: bool = True,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        bos_token_id: int | None = 0,
        eos_token_id: int | None = 3,
        pad_token_id: int | None = 2,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.normalize = normalize
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        kwargs.pop("num_key_value_heads", None)
        kwargs.update(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=False,
        )
        super().__init__(**kwargs)


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
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            **kwargs,
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
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        assert inputs_embeds is not None
        if output_attentions is None:
            output_attentions = bool(getattr(self.config, "output_attentions", False))
        if output_hidden_states is None:
            output_hidden_states = bool(getattr(self.config, "output_hidden_states", False))
        if position_ids is None:
            position_ids = _positions(inputs_embeds, attention_mask)
        longest = self.config.max_position_embeddings
        if inputs_embeds.shape[1] > longest:
            raise ModelError(
                f"a sequence of {inputs_embeds.shape[1]} tokens is longer than the model's "
                f"context of {longest}"
            )
        mask = _causal_mask(self.config, inputs_embeds, attention_mask)

        hidden_states = inputs_embeds + self.embed_positions(position_ids)
        states = [hidden_states]
        attentions: list[torch.Tensor | None] = []
        if output_attentions:
            # Attention functions that cannot return probabilities warn when they see this.
            kwargs["output_attentions"] = True
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                attentions=attentions,
                position_ids=position_ids,
                **kwargs,
            )
            states.append(hidden_states)
        hidden_states = self.norm(hidden_states)
        states[-1] = hidden_states

        available = [weights for weights in attentions if weights is not None]
        complete = output_attentions and len(available) == len(self.layers)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(available) if complete else None,
        )


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
