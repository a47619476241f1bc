"""Which model a spec names is told without opening it, and any change is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from icl_bench import provenance
from icl_bench.models.sources import identity
from icl_bench.models.sources.hub import HubModel
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions
from icl_bench.provenance import code_version, digest, library_versions, module_version

OPTIONS = RunOptions()
FILES = {
    "config.json": '{"model_type": "llama"}',
    "model.safetensors": "weights",
    "tokenizer.json": "{}",
    "README.md": "read me",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


def named(path: Path | str, options: RunOptions = OPTIONS, found: HubModel | None = None) -> str:
    told = identify(parse_spec(str(path)), options, found)
    assert told is not None
    return told


def rewrite(path: Path) -> None:
    """Change a file, its size and time of modification as before."""
    stat = path.stat()
    content = path.read_bytes()
    while path.stat().st_ctime_ns == stat.st_ctime_ns:  # the file system's clock ticks slowly
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def replace(path: Path) -> None:
    """Put another file of the same size in place of one."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    os.replace(other, path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", [rewrite, replace, Path.unlink, Path.touch])
def test_a_folder_is_another_model_when_a_file_of_it_changes(
    folder: Path, name: str, change: Callable[[Path], None]
) -> None:
    before = named(folder)
    assert named(folder) == before
    change(folder / name)
    assert named(folder) != before


def test_a_new_file_makes_another_model_and_what_is_no_part_of_one_does_not(folder: Path) -> None:
    before = named(folder)
    (folder / "README.md").write_text("read me again")
    (folder / ".git").mkdir()
    (folder / "step-10").mkdir()
    (folder / "step-10" / "model.safetensors").write_text("of another model")
    assert named(folder) == before
    (folder / "special_tokens_map.json").write_text("{}")
    assert named(folder) != before


def test_a_folder_is_the_same_by_every_path_and_another_one_is_not(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert named(tmp_path / "link") == named(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert named(tmp_path / "copy") != named(folder)


def test_files_behind_links_count(folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    os.replace(folder / "model.safetensors", blob)
    (folder / "model.safetensors").symlink_to(blob)
    before = named(folder)
    rewrite(blob)
    assert named(folder) != before


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(dtype="bfloat16"),
        RunOptions(device="cpu"),
        RunOptions(trust_remote_code=True),
        RunOptions(allow_pickle=True),
    ],
)
def test_another_way_of_opening_makes_another_model(folder: Path, options: RunOptions) -> None:
    assert named(folder, options) != named(folder)


def test_what_only_changes_the_work_makes_no_other_model(folder: Path, tmp_path: Path) -> None:
    options = RunOptions(batch_size=3, seed=5, cache_dir=tmp_path)
    assert named(folder, options) == named(folder)


@pytest.mark.parametrize("device", ["nvidia0", "kfd", "dxg", "nvgpu"])
def test_hidden_devices_make_another_model_where_there_are_any(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    shown = tmp_path / "dev"
    shown.mkdir()
    monkeypatch.setattr(identity, "DEVICES", shown)
    cpu = RunOptions(device="cpu")

    def both_ways(options: RunOptions = OPTIONS) -> set[str]:
        found = set()
        for variable in identity.ACCELERATOR_VARIABLES:
            monkeypatch.delenv(variable, raising=False)
            found.add(named(folder, options))
            monkeypatch.setenv(variable, "")
            found.add(named(folder, options))
        return found

    (without,) = both_ways()
    (shown / device).touch()
    assert len(both_ways()) == 4 and without not in both_ways()
    assert len(both_ways(cpu)) == 1
    (shown / device).unlink()
    assert both_ways(cpu) == {named(folder, cpu)} and both_ways() == {without}


@pytest.mark.parametrize("what", ["code_version", "library_versions"])
def test_other_code_makes_another_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = named(folder)
    monkeypatch.setattr(identity, what, lambda **given: "other")
    assert named(folder) != before


def test_code_that_a_checkpoint_brings_counts_where_it_is_trusted(folder: Path) -> None:
    trusted = RunOptions(trust_remote_code=True)
    (folder / "parts").mkdir()
    (folder / "parts" / "layer.py").write_text("a = 1")
    before = named(folder, trusted), named(folder)
    rewrite(folder / "parts" / "layer.py")
    assert named(folder, trusted) != before[0] and named(folder) == before[1]


def test_code_borrowed_from_another_repository_leaves_no_identity(folder: Path) -> None:
    trusted = RunOptions(trust_remote_code=True)
    borrowed = '{"auto_map": {"AutoModelForCausalLM": "org/other--modeling.Model"}}'
    (folder / "tokenizer_config.json").write_text(borrowed)
    assert identify(parse_spec(str(folder)), trusted, None) is None
    assert named(folder)
    spec = parse_spec("org/name")
    assert identify(spec, trusted, HubModel("c" * 40, True, folder)) is None
    assert identify(spec, OPTIONS, HubModel("c" * 40, True, folder)) is not None


def test_a_gguf_file_is_another_model_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("GGUF")
    before = named(file)
    (tmp_path / "beside.gguf").write_text("GGUF")
    assert named(file) == before
    rewrite(file)
    assert named(file) != before


def test_a_hub_model_is_its_commit() -> None:
    first, second = HubModel("a" * 40, cached=False), HubModel("b" * 40, cached=False)
    assert named("org/name@main", found=first) == named("org/name", found=HubModel("a" * 40, True))
    assert named("org/name", found=first) != named("org/name", found=second)
    assert named("org/name", found=first) != named("org/other", found=first)
    assert identify(parse_spec("org/name"), OPTIONS, None) is None


def test_built_in_models_have_an_identity_each() -> None:
    names = ["handwired", "handwired-shift-2", "induction-2l", "control-1l"]
    assert len({named(f"builtin:{name}") for name in names}) == 4


def test_callables_and_what_is_gone_have_none(folder: Path) -> None:
    spec = parse_spec(str(folder))
    shutil.rmtree(folder)
    assert identify(spec, OPTIONS, None) is None
    assert identify(parse_spec("package.module:make"), OPTIONS, None) is None


def test_the_code_version_follows_what_can_change_a_number_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = shutil.copytree(provenance.PACKAGE, tmp_path / "icl_bench")
    compute = code_version.__wrapped__
    before = compute()
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert compute() == before
    for name in ("render/markdown.py", "checks.py", "runner.py", "suite/loading.py"):
        (package / name).write_text("# changed")
    (package / "reference" / "weights" / "NOTES.txt").write_text("not code")
    assert compute() == before
    facts = ("tasks/fuzzy.json", "tasks/fewshot/antonym.json")
    code = ("measures/draws.py", "models/attention.py", "probes/choice.py", "models/new.py")
    for name in (*code, *facts):
        last = compute()
        (package / name).write_text("# changed")
        assert compute() != last, name
    last = compute()
    (package / "models" / "new.py").rename(package / "models" / "newer.py")
    assert compute() != last


def test_a_module_outside_the_package_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_probe.py").write_text("a = 1")
    first = module_version("odd_probe")
    module_version.cache_clear()
    (tmp_path / "odd_probe.py").write_text("a = 2")
    assert module_version("odd_probe") != first
    assert module_version("icl_bench.probes.texts.choice") is None
    assert module_version("no_such_module_anywhere") == "unknown"


def test_versions_are_those_of_what_is_installed() -> None:
    import numpy
    import torch

    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    # What stands after a plus names the build.
    assert str(versions["torch"]).split("+")[0] == torch.__version__.split("+")[0]
    assert set(library_versions(readers=True)) > set(versions)


def test_a_digest_does_not_depend_on_order_and_refuses_what_is_no_number() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    with pytest.raises(ValueError):
        digest({"a": float("nan")})
