"""The config of a checkpoint, read without torch: can it describe a causal language model?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError

ENCODERS = frozenset(
    {
        *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert"),
        *("electra", "esm", "funnel", "longformer", "modernbert", "mpnet", "nomic_bert", "roberta"),
        *("squeezebert", "xlm-roberta", "xlm-roberta-xl", "clip", "vit", "wav2vec2"),
    }
)
"""Model types that never predict the next token unless the config says `is_decoder`."""
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
"""How the class names of causal language models end, whatever else their config says."""
_DEEPEST = 100
"""Levels of a JSON file; none that describes a model has a tenth of them."""
_COUNTS = frozenset(
    {
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
        *("num_key_value_heads", "intermediate_size", "max_position_embeddings"),
        *("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "n_ctx", "d_model", "d_ff"),
        *("n_layers", "n_heads", "num_layers", "num_heads", "ffn_dim", "decoder_layers"),
    }
)
_GROUPS = frozenset(
    {
        *("text_config", "rope_scaling", "rope_parameters", "quantization_config", "auto_map"),
        *("vision_config", "audio_config"),
    }
)


def check_config(config: Any) -> None:
    """Check that the content of a `config.json` can describe a causal language model.

    Args:
        config: the parsed JSON.

    Raises:
        SpecError: it describes no model, or surely one of another kind.
    """
    if not isinstance(config, dict):
        raise SpecError("its config.json is not a JSON object")
    kind, classes = config.get("model_type"), config.get("architectures")
    _check_kinds(config)
    if not kind and not classes:
        raise SpecError("its config.json names neither a model_type nor architectures")
    if isinstance(classes, list) and any(str(name).endswith(CAUSAL_ENDINGS) for name in classes):
        return
    shape = None
    if config.get("is_encoder_decoder") is True:
        shape = "an encoder-decoder model"
    elif kind in ENCODERS and config.get("is_decoder") is not True:
        shape = "an encoder"
    if shape:
        raise SpecError(f"not a causal language model: its config.json describes {shape} ({kind})")


def _check_kinds(config: dict[str, Any]) -> None:
    """Refuse settings of a kind that no model has; what else may be wrong, loading will find."""

    def refuse(name: str, expected: str) -> None:
        found = json.dumps(config[name])
        raise SpecError(f"its config.json has {name} {found:.60}, which should be {expected}")

    for name, value in config.items():
        if value is None:
            continue
        several = value if isinstance(value, list) else [value]
        if name == "model_type" and not isinstance(value, str):
            refuse(name, "text")
        elif name == "architectures" and not (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
        ):
            refuse(name, "a list of class names")
        elif name in _GROUPS and not isinstance(value, dict):
            refuse(name, "an object")
        elif name in _COUNTS and not all(map(_is_count, several)):
            refuse(name, "a whole number from 0 on")
    if isinstance(config.get("text_config"), dict):
        _check_kinds(config["text_config"])


def _is_count(value: Any) -> bool:
    return value is None or is_size(value)


def is_size(value: Any) -> bool:
    """Return whether what a file says can be a size: a whole number from 0 on, of 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.

    Raises:
        SpecError: it cannot be read, is not JSON, or is nested too deep.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if _is_deep(content):
            raise RecursionError
        return content
    except OSError as error:
        raise SpecError(f"{path.name} cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise SpecError(f"{path.name} is nested too deep to describe a model") from None
    except ValueError as error:
        raise SpecError(f"{path.name} is not valid JSON ({error})") from None


def _is_deep(content: Any) -> bool:
    """Whether something has more levels than functions may call themselves on."""
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, (dict, list))
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)
