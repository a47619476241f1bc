"""What a model spec names, and what is said about one that names nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from icl_bench.errors import SpecError
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _two_builtins(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("icl_bench.reference")
    fake.NAMES = ("handwired", "induction-2l")  # type: ignore[attr-defined]
    fake.is_name = lambda name: name in fake.NAMES  # type: ignore[attr-defined]
    fake.series_steps = lambda name: ()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "icl_bench.reference", fake)


@pytest.mark.parametrize(
    ("text", "kind", "target", "revision"),
    [
        ("builtin:handwired", "builtin", "handwired", None),
        ("gpt2", "hub", "gpt2", None),
        ("EleutherAI/pythia-70m", "hub", "EleutherAI/pythia-70m", None),
        ("EleutherAI/pythia-70m@step3000", "hub", "EleutherAI/pythia-70m", "step3000"),
        ("gpt2@refs/pr/1", "hub", "gpt2", "refs/pr/1"),
        ("  gpt2 ", "hub", "gpt2", None),
        ("my_models:make", "callable", "my_models:make", None),
        ("a.b_c.d:Class.make", "callable", "a.b_c.d:Class.make", None),
    ],
)
def test_a_spec_that_is_no_path_is_told_by_its_form(
    text: str, kind: str, target: str, revision: str | None
) -> None:
    spec = parse_spec(text)
    assert (spec.kind, spec.target, spec.revision) == (kind, target, revision)
    assert spec.public == text.strip()


@pytest.mark.parametrize(
    "text", ["model", "./model", "model/", "a@b", "with space", "a/b", "x.bin"]
)
def test_an_existing_folder_wins_over_every_other_reading(text: str, tmp_path: Path) -> None:
    (tmp_path / text).mkdir(parents=True)
    spec = parse_spec(text)
    assert (spec.kind, spec.target) == ("folder", str(tmp_path / text))
    assert spec.public == Path(text).name


@pytest.mark.parametrize(
    "text", ["/no/such", "./no", "../no", "~/no-such-folder", "C:\\no", "no\\x"]
)
def test_what_looks_like_a_path_is_a_folder_even_if_missing(text: str) -> None:
    assert parse_spec(text).kind == "folder"


def test_a_local_path_is_public_by_its_last_component_only(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    assert parse_spec(str(tmp_path / "secret")).public == "secret"
    assert parse_spec(str(tmp_path / "secret" / "m.gguf")).public == "m.gguf"
    assert parse_spec(".").public == tmp_path.name


@pytest.mark.parametrize("text", ["m.gguf", "dir/m.GGUF", "odd@name.gguf", "org/name/m.gguf"])
def test_the_suffix_gguf_in_any_case_makes_a_gguf_file(text: str, tmp_path: Path) -> None:
    spec = parse_spec(text)
    assert (spec.kind, spec.target) == ("gguf", str(tmp_path / text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the model spec is empty; a model is builtin:NAME"),
        ("   ", "empty"),
        ("a\x00b", "control character"),
        ("builtin", "write builtin:NAME; valid names: handwired, induction-2l"),
        ("builtin:handwire", "no such built-in model; did you mean 'handwired'?"),
        ("builtin:", "valid names: handwired, induction-2l"),
        ("builtin:handwired@main", "no checkpoints of its training are shipped; leave '@...' out"),
        ("builtin:handwired@*", "no checkpoints of its training are shipped"),
        ("m.gguf@*", "local path, and those have no revisions"),
        ("pkg.mod:make@*", "a callable has no revisions"),
        ("gpt2@", "'' after the '@' is not a revision"),
        ("gpt2@a b", "is not a revision"),
        ("gpt2@../x", "is not a revision"),
        ("https://huggingface.co/org/name", "give the hub id instead of its address: org/name"),
        ("https://huggingface.co/org/name/tree/dev", "address: org/name@dev"),
        ("https://example.org/name", "a URL is not a model spec"),
        ("folder/model.safetensors", "one file of a checkpoint; give the folder"),
        ("pytorch_model.bin", "give the folder that holds it"),
        ("m.gguf@main", "local path, and those have no revisions"),
        ("a/b/c", "no such folder here, and a hub id is NAME or ORG/NAME"),
        ("-dash", "not a hub id"),
        ("two--dashes", "not a hub id"),
        ("org./name", "not a hub id"),
        ("org-/name", "not a hub id"),
        ("has space", "not a hub id"),
        ("x" * 97, "not a hub id"),
        ("pkg.mod:make@main", "a callable has no revisions"),
        ("pkg.mod:make()", "not of the form package.module:callable"),
        ("my-mod:make", "not of the form package.module:callable"),
        ("dir/file.py:make", "did you mean 'dir.file:make'?"),
        ("a:b:c", "not of the form package.module:callable"),
    ],
)
def test_a_spec_that_names_nothing_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_checkpoint_names_the_folder_to_give(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "config.json").write_text("{}")
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(SpecError, match="give the folder that holds it: 'ckpt'"):
            parse_spec(f"ckpt/{name}")


def test_a_file_without_the_suffix_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SpecError, match=r"its name does not end in \.gguf"):
        parse_spec("./notes.txt")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    for text in ("gpt2@main", "./gpt2@main", f"{tmp_path}/gpt2@main"):
        with pytest.raises(SpecError, match="is a local path, and those have no revisions"):
            parse_spec(text)


def test_a_mistyped_path_or_builtin_names_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "run one").mkdir(parents=True)
    with pytest.raises(SpecError, match="did you mean 'outputs/run one'"):
        parse_spec("outputs/run 1")
    with pytest.raises(SpecError, match="did you mean 'builtin:induction-2l'"):
        parse_spec("induction 2l")
