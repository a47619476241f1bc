"""Checking specs costs no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import checkpoints

SCRIPT = """
import sys
from icl_bench.models.opening.loading import check_device, check_dtype
from icl_bench.options import default_cache_dir
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.naming import name_models
check_device("cpu"), check_dtype("auto"), default_cache_dir()
specs = [parse_spec(text) for text in sys.argv[2:]]
name_models(specs)
for spec in specs:
    check_spec(spec)
if sys.argv[1] == "heavy":
    import torch
print(sorted({"torch", "transformers", "pandas"} & set(sys.modules)))
"""


def heavy_imports(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_parsing_and_checking_specs_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder = checkpoints.write_llama(tmp_path / "llama")
    file = checkpoints.write_gguf(tmp_path / "tiny.gguf")
    assert heavy_imports("light", str(folder), str(file), "json:loads") == "[]"


def test_the_test_for_heavy_imports_can_fail() -> None:
    assert heavy_imports("heavy") == "['torch']"
