"""How models are opened and run: what the command line and the Python API have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icl_bench.errors import SettingsError


@dataclass(frozen=True)
class RunOptions:
    """How models are opened and run; the same for every model of a run.

    Args:
        device: auto, cpu, cuda, cuda:N, or split (over all devices, then memory, then disk).
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        seed: overrides the suites' seeds; None to keep them.
        cache_dir: folder for measurements and for float copies of GGUF files; None for the default.
        trust_remote_code: run code that a model brings.
        allow_pickle: read weights that are stored as pickles.
        cache: keep measurements, and take from the cache what was measured before.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    seed: int | None = None
    cache_dir: Path | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache: bool = True

    def validate(self) -> None:
        """Check values that can be judged without a model.

        Raises:
            SettingsError: a value cannot be used.
        """
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingsError(f"batch size {self.batch_size}: must be at least 1")
        if self.seed is not None and self.seed < 0:
            raise SettingsError(f"seed {self.seed}: must not be negative")
