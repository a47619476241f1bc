"""The commands of README and docs that open a model, run to their end on real weights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_commands import FOLDERS, LONG, PAGES, ROOT, at_hand, commands, words_of
from real_model import find_smollm2

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("default"),  # of other packages, while weights are written
]
REAL = dict.fromkeys(("SPEC", "MODEL", "gpt2", "HuggingFaceTB/SmolLM2-135M@main"), "./mine")
"""What a page names, and what is opened: SmolLM2-135M from the disk."""
OPENS = re.compile(r"--icl-model|icl-bench (run|sweep|train-reference)")
SHOWN = [
    pytest.param(line, id=f"{page.name}: {line}"[:70])
    for page in PAGES
    for line in dict.fromkeys(commands(page))
    if OPENS.search(line) or any(word in LONG for word in words_of(line))
]


@pytest.fixture(scope="module")
def real_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the checkpoints that the pages speak of, one and the same real model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("real")
    file = find_smollm2()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    model.hf_quantizer = None  # its weights are floats now
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for part in (model, tokenizer):
        part.save_pretrained(folder / FOLDERS[0])
    for name in FOLDERS[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / FOLDERS[0])
    (folder / "model.Q4_1.gguf").symlink_to(file)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "models.py").write_text(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "def make():\n"
        "    kinds = (AutoModelForCausalLM, AutoTokenizer)\n"
        f"    return tuple(kind.from_pretrained({str(folder / FOLDERS[0])!r}) for kind in kinds)\n"
    )
    _call(folder, ["icl-bench", "init", "mine.yaml"])
    (folder / "baselines").mkdir()
    baseline = ["icl-bench", "run", "./mine", "--suite=gate", "--save-baseline=good.json"]
    assert _call(folder, baseline).returncode == 0
    for copy in ("baseline.json", "baselines/gate.json"):
        shutil.copy(folder / "good.json", folder / copy)
    return folder


def _call(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python, in the folder and with a cache there."""
    program, *arguments = words
    start = "import sys; from icl_bench.cli import main; sys.exit(main())"
    begin = ["-m", "pytest"] if program == "pytest" else ["-c", start]
    return subprocess.run(
        [sys.executable, *begin, *arguments],
        cwd=folder,
        env={
            "PATH": "",
            "HOME": str(folder),
            "PYTHONPATH": f"{ROOT}:{folder}",
            "ICL_BENCH_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_docs_runs_on_real_weights(line: str, real_place: Path) -> None:
    """It ends with a verdict: nothing broken, nothing refused."""
    done = _call(real_place, at_hand(words_of(line), REAL))
    told = done.stdout[-3000:] + done.stderr[-3000:]
    if "damaged" in line:
        # Another model than the baseline's, and one with a head switched off.
        assert done.returncode == 1, told
    else:
        # SmolLM2 fails no check of core, gate, and quiz says what it answers wrong.
        assert done.returncode in (0, 1), told
        assert "Traceback" not in told and " error" not in done.stdout, told
