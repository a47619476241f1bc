"""Every command that README and docs show is run, or checked as far as it can be offline."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
from adapters import KINDS, write_adapter
from checkpoints import make_llama, write_llama
from docs_commands import FOLDERS, LONG, PAGES, ROOT, at_hand, commands, words_of
from real_model import find_smollm2

from icl_bench.cli import main

STANDS_FOR = {
    "gpt2": "./mine",
    "distilgpt2": "./other",
    "HuggingFaceTB/SmolLM2-135M@main": "./mine",
    "SPEC": "builtin:induction-2l",
    "MODEL": "builtin:induction-2l",
}
"""What is not at hand without a network, and what takes its place."""

SHOWN = [
    pytest.param(page, line, id=f"{page.name}: {line}"[:70])
    for page in PAGES
    for line in dict.fromkeys(commands(page))
]


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("playground")
    for place, name in enumerate(FOLDERS):
        write_llama(folder / name, seed=place)
    write_adapter(make_llama(), folder / "my-lora", KINDS["lora"], named="../mine")
    shutil.copy(find_smollm2(), folder / "model.Q4_1.gguf")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "models.py").write_text("def make(): ...\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_heads.py").write_text("def test_heads(icl): ...\n")
    (folder / "baselines").mkdir()
    return folder


@pytest.fixture(scope="module")
def records(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The playground after a first run: with a report folder, baselines and a suite."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(playground)
        patch.setenv("ICL_BENCH_CACHE", str(cache))
        for name in ("mine", "step-5000"):
            spec = f"{name}=builtin:induction-2l"
            assert main(["run", spec, "--suite=gate", "--save-baseline=good.json"]) == 0
        for copy in ("baseline.json", "baselines/gate.json", "theirs/results.json"):
            (playground / copy).parent.mkdir(exist_ok=True)
            shutil.copy("good.json", copy)
        assert main(["init", "mine.yaml"]) == 0
    sample = ROOT / "reports" / "samples" / "SmolLM2-135M-Instruct.Q4_1"
    shutil.copytree(sample, playground / "reports" / "smol")
    return playground


@pytest.fixture
def here(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The playground as working directory, with a cache of its own."""
    monkeypatch.chdir(records)
    monkeypatch.setenv("ICL_BENCH_CACHE", str(tmp_path / "cache"))
    yield records


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_of_the_docs_works(
    page: Path, line: str, here: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = words_of(line)
    monkeypatch.chdir(here)  # pytester has left it
    if program == "pytest":
        # Checks options, suites and models as far as they are checked before any is opened.
        result = pytester.runpytest_inprocess("--collect-only", "-q", *at_hand(words, STANDS_FOR))
        assert result.ret == 0, result.outlines + result.errlines
    elif program == "icl-bench" and not any(word in LONG for word in words):
        if "init" in words:
            (here / "mine.yaml").unlink()
        regression = any("damaged" in word for word in words)
        if words[0] == "mutate" and not any("--" in word for word in words):
            words += ["--edits=head-zero"]  # all of them take a quarter of a minute
        assert main(at_hand(words, STANDS_FOR)) == int(regression)
    elif program == "eval":
        assert main(shlex.split(words[0].strip('"$()'))[1:]) == 0
    elif program == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in words)
    elif program == "pip":
        extras = re.findall(r"\.\[(\w+)\]", line)
        with (ROOT / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        assert set(extras) <= project["optional-dependencies"].keys()
        assert not any("icl-bench" in word for word in words), "there is no release yet"


def test_the_pages_show_commands_of_every_kind() -> None:
    shown = [line for page in PAGES for line in commands(page)]
    assert len(shown) > 40
    assert {line.split(" ")[0] for line in shown} >= {"pytest", "icl-bench", "pip", "make"}


def test_a_command_that_is_wrong_is_found(here: Path) -> None:
    assert main(["run", "SPEC", "--suite=gate"]) == 4
    assert main(["compare", "god.json", "reports/mine"]) == 4


def test_no_page_says_that_there_is_a_release() -> None:
    pages = [*PAGES, *(ROOT / "examples").glob("*.*")]
    for page in pages:
        assert not re.search(r"pip install ['\"]?icl-bench", page.read_text()), page
