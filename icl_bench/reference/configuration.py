"""Shape of the built-in models, as a transformers config."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig


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
