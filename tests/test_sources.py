"""Sources of models: the table and its protocol, and what it lets others add."""

from __future__ import annotations

import ast
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from distributions import Install, install
from test_house import FILES, loaded_after

from icl_bench.errors import SpecError
from icl_bench.models.opening import streaming
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources import file_identity
from icl_bench.models.sources.checking import check_one, check_spec
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import Checkpoints, find_steps, find_sub_folders
from icl_bench.models.sources.source import OPERATIONS, Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import OPEN, ModelSpec
from icl_bench.models.sources.stored import Stored
from icl_bench.models.sources.table import SOURCES, get_source
from icl_bench.options import RunOptions

__all__ = ["install"]
OPTIONS = RunOptions()
TRUSTING = RunOptions(trust_remote_code=True)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_row_of_the_table_is_a_source_and_says_so_of_its_specs() -> None:
    assert {"recognise", "check", "checkpoints", "identity", "open", "pour"} < set(OPERATIONS)
    texts = {
        "adapter": "./m+./adapter",
        "builtin": "builtin:handwired",
        "gguf": "m.gguf",
        "folder": "./m",
        "callable": "a.b:c",
        "hub": "org/m",
    }
    assert texts.keys() == SOURCES.keys()
    for name, text in texts.items():
        source = get_source(name)
        assert all(hasattr(source, one) for one in OPERATIONS)
        spec = parse_spec(text)
        assert spec.kind == name and source.recognise(text) == spec
        others = [get_source(other) for other in list(SOURCES)[: list(SOURCES).index(name)]]
        assert [other.recognise(text) for other in others] == [None] * len(others)


def test_sources_are_loaded_without_anything_heavy() -> None:
    table_of = "icl_bench.models.sources.table"
    statement = f"from {table_of} import SOURCES, get_source; [get_source(one) for one in SOURCES]"
    assert loaded_after(statement) & {"torch", "transformers", "pandas"} == set()


def test_a_source_without_an_operation_says_so() -> None:
    made, spec = get_source("callable"), parse_spec("a.b:c")
    assert made.checkpoints(spec) is made.identity(spec, Opening(OPTIONS)) is None
    assert made.content(spec, Opening(OPTIONS)) is made.pour(spec, Opening(OPTIONS)) is None
    assert made.training_loss(spec, ()) == {}


def kinds_compared(code: str) -> set[str]:
    """Sources that are named where the `kind` of something is compared."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Compare) and "attr='kind'" in ast.dump(node.left):
            constants = (part for side in node.comparators for part in ast.walk(side))
            found |= {part.value for part in constants if isinstance(part, ast.Constant)}
    return found & {*SOURCES, OPEN}


def test_nothing_asks_which_source_a_spec_is_of() -> None:
    asking = {name for name, path in FILES.items() if kinds_compared(path.read_text())}
    assert asking == set()
    assert kinds_compared("spec.kind == 'hub'") == {"hub"}
    assert kinds_compared("if self.spec.kind in ('folder', 'gguf'): ...") == {"folder", "gguf"}


# What tells one model from another.


def named(path: Path, options: RunOptions) -> tuple[str | None, str | None]:
    """Identity and content of a model."""
    spec = parse_spec(str(path))
    return identify(spec, options, None), get_source(spec.kind).content(spec, Opening(options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.write_llama(tmp_path / "model")


@pytest.mark.parametrize("options", [OPTIONS, TRUSTING])
@pytest.mark.parametrize(
    "hidden", [".DS_Store", ".cache/huggingface/x.metadata", ".git/hook.py", ".tmp.safetensors"]
)
def test_hidden_files_beside_a_model_make_no_other_model(
    folder: Path, hidden: str, options: RunOptions
) -> None:
    before = named(folder, options)
    assert None not in before
    (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
    (folder / hidden).write_text("x")
    assert named(folder, options) == before


def test_a_folder_is_known_by_its_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    places, content = named(folder, OPTIONS)
    copy = shutil.copytree(folder, tmp_path / "copy")
    os.utime(copy / "model.safetensors")
    (copy / "optimizer.pt").write_text("moments")
    (copy / "trainer_state.json").write_text("{}")
    assert named(copy, OPTIONS)[0] != places and named(copy, OPTIONS)[1] == content
    contents = {content}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        changed = shutil.copytree(folder, tmp_path / f"changed-{name}")
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        contents.add(named(changed, OPTIONS)[1])
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    (renamed / "tokenizer.json").rename(renamed / "tokenizer2.json")
    contents.add(named(renamed, OPTIONS)[1])
    assert len(contents) == 5 and None not in contents


def test_code_counts_as_content_where_it_is_trusted(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "layer.py").write_text("a = 1")
    before = named(folder, OPTIONS)[1], named(folder, TRUSTING)[1]
    (folder / "parts" / "layer.py").write_text("a = 2")
    assert named(folder, OPTIONS)[1] == before[0] and named(folder, TRUSTING)[1] != before[1]


def test_a_gguf_is_known_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("GGUF")
    places, content = named(file, OPTIONS)
    twin = Path(shutil.copy(file, tmp_path / "twin.gguf"))
    assert named(twin, OPTIONS)[0] != places and named(twin, OPTIONS)[1] == content
    twin.write_text("GGUg")
    assert named(twin, OPTIONS)[1] != content


def test_content_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = named(folder, OPTIONS)
    monkeypatch.setattr(file_identity, "hashlib", None)
    assert named(folder, OPTIONS) == before


# A source that is made of others.


class FoundBoth(Found):
    def __init__(self, base: Found | None, adapter: Path) -> None:
        self.base, self.adapter = base, adapter


class Adapted(Source):
    """`adapted:BASE+FOLDER`: a base of any source, to whose norm `delta.pt` is added."""

    def recognise(self, text: str) -> ModelSpec | None:
        base, plus, adapter = text.removeprefix("adapted:").rpartition("+")
        if not plus:
            raise SpecError("write adapted:BASE+FOLDER")
        parse_spec(base)
        adapter, _, series = adapter.partition("@")
        return ModelSpec(text, "adapted", f"{base}+{adapter}", series=series or None)

    def _parts(self, spec: ModelSpec) -> tuple[ModelSpec, Path]:
        base, _, adapter = spec.target.rpartition("+")
        return parse_spec(base), Path(adapter, spec.revision or "")

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        base, adapter = self._parts(spec)
        if not (adapter / "delta.pt").is_file():
            raise SpecError(f"there is no adapter {str(adapter)!r}")
        return FoundBoth(check_one(base, allow_pickle=allow_pickle), adapter)

    def checkpoints(self, spec: ModelSpec) -> Checkpoints:
        adapter = self._parts(spec)[1]
        return Checkpoints(find_sub_folders(adapter), f"folder {str(adapter)!r}")

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        base, adapter = self._parts(spec)
        found = how.found.base if isinstance(how.found, FoundBoth) else None
        of_base = get_source(base.kind).identity(base, Opening(how.options, found))
        if of_base is None:
            return None
        return [base.kind, of_base, file_identity.places_of([adapter / "delta.pt"])]

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        base, adapter = self._parts(spec)
        assert isinstance(how.found, FoundBoth) and how.found.adapter == adapter
        parts = get_source(base.kind).open(base, replace(how, found=how.found.base))
        with torch.no_grad():
            parts.model.model.norm.weight += torch.load(adapter / "delta.pt")
        return parts


ADAPTED = Adapted()


@pytest.fixture
def adapted(install: Install, folder: Path, tmp_path: Path) -> str:
    install("their-adapters", "icl_bench.sources", f"adapted = {__name__}:ADAPTED")
    for name, delta in (("one", 1.0), ("run/step1", 2.0), ("run/step2", 3.0)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        torch.save(torch.full((32,), delta), tmp_path / name / "delta.pt")
    return "adapted:./model+one"


def norm(parts: LoadedParts) -> float:
    return float(parts.model.model.norm.weight.detach().mean())


def test_a_source_made_of_others_is_recognised_checked_and_opened(adapted: str) -> None:
    spec = parse_spec(f"mine={adapted}")
    assert (spec.kind, spec.target, spec.name) == ("adapted", "./model+one", "mine")
    assert isinstance(check_spec(spec), FoundBoth)
    assert norm(load_parts(spec)) == norm(load_parts(parse_spec("./model"))) + 1
    with pytest.raises(SpecError, match="^model 'adapted:./model': write adapted:BASE"):
        parse_spec("adapted:./model")
    with pytest.raises(SpecError, match="model 'adapted:builtin:nothing.one': .*no such built-in"):
        parse_spec("adapted:builtin:nothing+one")
    with pytest.raises(SpecError, match="^model 'adapted:./model.none': there is no adapter"):
        check_spec(parse_spec("adapted:./model+none"))
    with pytest.raises(SpecError, match="^model 'adapted:./nothing.one': model './nothing': there"):
        check_spec(parse_spec("adapted:./nothing+one"))


def test_each_part_of_a_model_tells_it_from_others(adapted: str, folder: Path) -> None:
    spec = parse_spec(adapted)
    identities = [identify(spec, OPTIONS, check_one(spec))]
    os.utime("one/delta.pt", ns=(1, 1))
    identities.append(identify(spec, OPTIONS, check_one(spec)))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    identities.append(identify(spec, OPTIONS, check_one(spec)))
    identities.append(identify(parse_spec("adapted:./model+run/step1"), OPTIONS, None))
    assert None not in identities and len(set(identities)) == 4
    assert identify(parse_spec("adapted:a.b:c+one"), OPTIONS, None) is None
    assert spec.origin not in (None, parse_spec("adapted:./model+run").origin)


def test_a_source_may_list_checkpoints_in_sub_folders(adapted: str) -> None:
    series = parse_spec("adapted:./model+run@*")
    steps = find_steps(series)
    assert check_spec(series) == steps
    assert [step.step for step in steps] == [1, 2]
    assert [norm(load_parts(step.spec)) for step in steps] == [3, 4]


class Mirror(Source):
    """`mirror:RUN@*`: folders by another name, with a checkpoint's files for streaming."""

    folders = get_source("folder")

    def recognise(self, text: str) -> ModelSpec | None:
        return self.folders.recognise(text.removeprefix("mirror:"))

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        return self.folders.check(spec, allow_pickle=allow_pickle)

    def checkpoints(self, spec: ModelSpec) -> Checkpoints | None:
        return self.folders.checkpoints(spec)

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        return self.folders.open(spec, how)

    def pour(self, spec: ModelSpec, how: Opening) -> Stored | None:
        return self.folders.pour(spec, how)


MIRROR = Mirror()


def test_checkpoints_of_another_packages_source_are_streamed_into_one_module(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("their-mirror", "icl_bench.sources", f"mirror = {__name__}:MIRROR")
    for seed in (1, 2):
        checkpoints.write_llama(Path("runs", f"step{seed}"), seed=seed)
    opened: list[str | None] = []
    load = streaming.load
    monkeypatch.setattr(
        streaming, "load", lambda spec, *rest: opened.append(spec.revision) or load(spec, *rest)
    )
    stream, first = streaming.CheckpointStream(), None
    for step in find_steps(parse_spec("mirror:./runs@*")):
        assert (step.spec.kind, step.spec.public) == ("mirror", f"runs@step{step.step}")
        model = stream.open(step.spec, "runs", RunOptions(device="cpu")).model
        first = first or model
        expected = checkpoints.make_llama(step.step).state_dict()
        assert all(torch.equal(expected[name], one) for name, one in model.state_dict().items())
    assert model is first and opened == ["step1"]
