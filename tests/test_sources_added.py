"""Sources of models that other packages add."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import checkpoints
import pytest
import torch
from distributions import Install, install

import icl_bench
from icl_bench import provenance
from icl_bench.cli import main
from icl_bench.errors import SpecError
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources import table
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions

__all__ = ["install"]

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin" / "src"
OPTIONS = RunOptions()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.write_llama(tmp_path / "model")


# What other packages add.


@pytest.fixture
def random_source(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/extending.md, as if it was installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    install("icl-bench-example", "icl_bench.sources", "random = icl_bench_example.source:SOURCE")


SUITE = """
icl_suite: 1
name: small
measure: {repeats: {probe: induction, sequences: 16, period: 8}}
checks: [{id: has-induction-heads, on: repeats, metric: induction_max, above: 0.4}]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SUITE)
    return tmp_path / "small.yaml"


def test_another_packages_source_opens_models(random_source: None) -> None:
    spec = parse_spec("random:2x4@7")
    assert (spec.kind, spec.target, spec.revision, spec.public) == (
        *("random", "2x4", "7"),
        "random:2x4@7",
    )
    assert check_spec(spec) is None
    first, again = (load_parts(spec).model for _ in range(2))
    other = load_parts(parse_spec("random:2x4@8")).model
    weights = [model.model.embed_tokens.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert (first.config.num_hidden_layers, first.config.num_attention_heads) == (2, 4)
    identities = [
        identify(parse_spec(text), OPTIONS, None)
        for text in ("random:2x4", "random:2x4@0", "random:2x4@1", "random:2x3")
    ]
    assert identities[0] == identities[1] and len(set(identities)) == 3


def test_a_record_shows_another_packages_model_like_any_other(
    random_source: None, suite: Path, openings: list[str]
) -> None:
    record = icl_bench.run([suite], model="random:2x4@7")
    model = record.model
    assert (model.spec, model.slug, model.layers, model.heads) == (
        *("random:2x4@7", "random-2x4-7"),
        *(2, 4),
    )
    assert model.origin == parse_spec("random:2x4@7").origin is not None
    assert model.fingerprint and record.checks[0].verdict == "fail"
    assert icl_bench.run([suite], model="random:2x4@7").measurements["small/repeats"].cached
    assert openings == ["random:2x4@7"]
    assert icl_bench.run([suite], model="random:2x4@8").model.origin != model.origin


THEIRS = """
from icl_bench.models.sources.source import LoadedParts, Source
from icl_bench.models.sources.spec import ModelSpec
class Theirs(Source):
    def recognise(self, text):
        return ModelSpec(text, "", text.partition(":")[2])
    def check(self, spec, *, allow_pickle=False):
        return None
    def identity(self, spec, how):
        return spec.target
    def open(self, spec, how):
        from icl_bench.reference import load
        return LoadedParts(*load(spec.target))
SOURCE = Theirs()
"""


def install_theirs(install: Install, code: str = THEIRS, name: str = "theirs") -> Path:
    return install("their-models", "icl_bench.sources", f"{name} = their_models:SOURCE", code)


def test_what_was_measured_by_other_code_of_a_source_is_measured_again(
    install: Install, suite: Path, openings: list[str]
) -> None:
    file = install_theirs(install)

    def is_cached() -> bool:
        record = icl_bench.run([suite], model="theirs:handwired")
        assert record.checks[0].verdict == "pass"
        return record.measurements["small/repeats"].cached

    assert [is_cached(), is_cached()] == [False, True]
    file.write_text(f"{THEIRS}# changed")
    provenance.package_version.cache_clear()
    provenance.module_version.cache_clear()
    assert [is_cached(), is_cached()] == [False, True]
    assert openings == ["theirs:handwired"] * 2


@pytest.mark.parametrize("identity", ["1 / 0", "return object()"])
def test_a_model_whose_identity_breaks_is_measured_with_a_warning(
    install: Install, suite: Path, identity: str
) -> None:
    install_theirs(install, THEIRS.replace("return spec.target", identity))
    with pytest.warns(UserWarning, match="cannot be told .*their-models 1.2 broke: [ZT]"):
        record = icl_bench.run([suite], model="theirs:handwired")
    assert record.checks[0].verdict == "pass"


def test_looking_for_other_packages_costs_nothing_where_no_name_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: pytest.fail("read"))
    Path("odd:name").mkdir()
    specs = ("builtin:handwired", "./model", "m.gguf", "org/name@main", "a.b:c", "./odd:name")
    for text in (*specs, "odd:name", "C:/model", "hub:x"):
        spec = parse_spec(text)
        identify(spec, OPTIONS, None)
    assert identify(parse_spec("./model"), OPTIONS, None)


def test_a_local_path_wins_over_another_packages_source(random_source: None) -> None:
    Path("random:2x4").mkdir()
    assert parse_spec("random:2x4").kind == "folder"
    assert parse_spec("random:2x5").kind == "random"


def test_an_address_may_be_another_packages_and_is_refused_where_none_has_it(
    install: Install,
) -> None:
    with pytest.raises(SpecError, match="a URL is not a model spec"):
        parse_spec("theirs://bucket/model")
    table._find.cache_clear()
    install_theirs(install)
    spec = parse_spec("theirs://bucket/model")
    assert (spec.kind, spec.target) == ("theirs", "//bucket/model")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("randm:2x4@7", "random:2x4@7"),
        ("randon:make", "random:make"),
        ("buitlin:handwired", "builtin:handwired"),
        ("rndom://2x4", "random://2x4"),
    ],
)
def test_a_mistyped_source_names_the_nearest(random_source: None, text: str, near: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(text))
    assert str(caught.value).endswith(f"; did you mean {near!r}?")
    with pytest.raises(SpecError, match=r"not of the form random:LAYERSxHEADS@SEED"):
        parse_spec("random:two")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hub", ("", ""), "package their-models 1.2 adds a source 'hub', but icl_bench has one"),
        ("theirs", ("SOURCE = Theirs()", ""), "cannot be loaded: AttributeError"),
        ("theirs", ("def check", "def chuck"), "cannot be loaded: TypeError: .* abstract"),
        (
            "theirs",
            ("class Theirs(Source)", "class Theirs"),
            "has no remote, checkpoints, training_loss, content, pour",
        ),
        ("theirs", ("Theirs()", "Theirs"), "is a class; its entry point must name an object"),
        (
            "theirs",
            ("return ModelSpec", "return 1 / 0; ModelSpec"),
            "source 'theirs' of package their-models 1.2 broke: ZeroDivisionError: division by",
        ),
        ("theirs", ("return ModelSpec", "return None and ModelSpec"), "does not understand what"),
        ("theirs", ("return None", "return None.x"), "their-models 1.2 broke: AttributeError: "),
    ],
)
def test_a_broken_source_is_one_message(
    install: Install, name: str, change: tuple[str, str], message: str
) -> None:
    install_theirs(install, THEIRS.replace(*change), name)
    with pytest.raises(SpecError, match=message) as caught:
        check_spec(parse_spec("theirs:handwired"))
    text = str(caught.value)
    assert text.startswith("model 'theirs:handwired': ") and "\n" not in text


def test_a_broken_source_ends_the_command_with_4(
    install: Install, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_theirs(install, "raise OSError('no licence')")
    assert main(["run", "theirs:x", "--suite", str(suite)]) == 4
    error = capsys.readouterr().err
    assert "their_models:SOURCE, cannot be loaded: OSError: no licence" in error
    assert "Traceback" not in error
