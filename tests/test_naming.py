"""What models are called: by their spec, by the user, and never two by one name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from icl_bench.errors import SpecError
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.naming import further_names, name_models, plain_name, tell_names


def names(*texts: str, folder: Path | None = None) -> list[str]:
    return name_models([parse_spec(text) for text in texts], folder)


def keep(folder: Path, name: str, spec: ModelSpec, *, origin: bool = True) -> None:
    """Leave what a run leaves of a model in its report folder, as far as names need it."""
    model = {"spec": spec.public, "slug": name, "origin": spec.origin if origin else None}
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps({"schema": 1, "model": model}))


def test_a_name_holds_only_characters_fit_for_ids_and_folders() -> None:
    assert names("builtin:induction-2l", "org/name@step1", "/a/b/My Model.gguf", "/a/x[1],y") == [
        "builtin-induction-2l",
        "org-name-step1",
        "My-Model",
        "x-1--y",
    ]


@pytest.mark.parametrize("letters", ["模型", "модель", "מודל", "हिन्दी", "ü", "e\u0301te", "نموذج"])
def test_letters_of_any_script_stay(letters: str) -> None:
    (name,) = names(f"/a/{letters}")
    assert name == letters.replace("e\u0301", "é")


def test_two_names_in_other_letters_differ() -> None:
    assert names("/a/模型", "/a/模形") == ["模型", "模形"]


def test_a_name_without_letters_gets_digits_of_its_origin() -> None:
    one, two = names("/a/★", "/a/☆")
    assert one != two and one.startswith("model-") and len(one) == len("model-") + 6


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/r/runA/checkpoint-500", "runA-checkpoint-500"),
        ("/r/runA/step1000", "runA-step1000"),
        ("/r/runA/global_step500", "runA-global_step500"),
        ("/r/runA/epoch=3-step=500", "runA-epoch-3-step-500"),
        ("/r/runA/500", "runA-500"),
        ("/r/runA/main", "runA-main"),
        ("/r/runA/checkpoints/last", "runA-checkpoints-last"),
        ("/hub/models--org--m/snapshots/5f1e3ab9c0", "models--org--m-snapshots-5f1e3ab9c0"),
        ("/r/runA/model.gguf", "runA-model"),
        ("/r/runA/mine", "mine"),
        ("/r/runA/gpt2", "gpt2"),
        ("/r/runA/llama-7b", "llama-7b"),
        ("/r/runA/defaced", "defaced"),
        ("/500", "500"),
    ],
)
def test_a_last_part_that_says_little_has_its_parents_before_it(path: str, name: str) -> None:
    assert names(path) == [name]


def test_models_of_one_name_get_parent_folders_until_they_differ() -> None:
    assert names("/x/run/mine", "/y/run/mine", "gpt2") == ["x-run-mine", "y-run-mine", "gpt2"]
    assert names("gpt2", "/y/run/mine", "/x/run/mine") == ["gpt2", "y-run-mine", "x-run-mine"]
    assert names("/x/r/checkpoint-500", "/y/r/checkpoint-500") == [
        "x-r-checkpoint-500",
        "y-r-checkpoint-500",
    ]


def test_what_has_no_parents_gets_digits_of_its_origin() -> None:
    specs = [parse_spec("org/name"), parse_spec("org-name")]
    assert name_models(specs) == [f"org-name-{spec.origin[:6]}" for spec in specs if spec.origin]


def test_paths_that_differ_only_in_what_a_name_cannot_hold_differ() -> None:
    assert len(set(names("/a b", "/a+b", "/a b/", "/a*b"))) == 3


def test_names_that_differ_in_case_only_are_one_name() -> None:
    assert len({name.casefold() for name in names("org/GPT", "org/gpt")}) == 2
    assert len({name.casefold() for name in names("/x/Mine", "/y/mine")}) == 2


def test_two_ways_to_write_one_model_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert names("gpt2", "gpt2") == ["gpt2", "gpt2"]
    assert names("./mine", "mine/", str(tmp_path / "mine"), "mine=./mine") == ["mine"] * 4


def test_a_name_is_never_a_relative_folder_and_never_too_long() -> None:
    for text in ("/", "/a/...", "/a/.hidden", f"/a/{'x' * 200}", f"/a/{'模' * 80}", "org/name."):
        spec = ModelSpec(text, "folder", text)
        (name,) = name_models([spec])
        assert not name.startswith(".") and name.strip(".") and len(name.encode()) <= 120
    assert len(set(names(f"/a/{'x' * 200}1", f"/a/{'x' * 200}2"))) == 2


def test_the_user_names_a_model() -> None:
    spec = parse_spec("candidate=org/name@v2")
    assert (spec.name, spec.text, spec.given) == (
        "candidate",
        "org/name@v2",
        "candidate=org/name@v2",
    )
    assert spec.public == "org/name@v2" and name_models([spec]) == ["candidate"]
    assert names("модель=gpt2", "b.1_x-y=gpt2") == ["модель", "b.1_x-y"]


def test_a_path_with_an_equals_sign_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1" / "step-1").mkdir(parents=True)
    for text in ("lr=0.1", "lr=0.1@*", "./lr=0.1", "./runs/lr=0.1"):
        assert parse_spec(text).name is None
    assert parse_spec("a=lr=0.1").name == "a"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a=", "empty"),
        (".a=gpt2", "begins with"),
        ("..=gpt2", "begins with"),
        (f"{'a' * 121}=gpt2", "longer than 120"),
        ("a=builtin:none", "model 'a=builtin:none'"),
    ],
)
def test_a_name_or_model_that_cannot_be_is_one_message(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_spec(text)


def test_the_origin_is_a_digest_of_where_a_model_is(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert parse_spec(str(tmp_path / "link")).origin == digest(str((tmp_path / "real").resolve()))
    assert parse_spec("org/name").origin == digest("org/name")
    assert parse_spec("a=package.module:make").origin == digest("package.module:make")
    assert parse_spec("org/name@v1").origin != parse_spec("org/name@v2").origin
    assert ModelSpec("mine", "object", "mine").origin is None


def test_a_name_of_another_origin_in_the_report_folder_is_not_taken(tmp_path: Path) -> None:
    other = parse_spec("/x/run/mine")
    keep(tmp_path, "mine", other)
    assert names("/y/run/mine", folder=tmp_path) == ["run-mine"]
    assert names("/x/run/mine", folder=tmp_path) == ["mine"]
    assert names("mine=gpt2", folder=tmp_path)[0].startswith("mine-")
    assert names("/z/MINE", folder=tmp_path) == ["z-MINE"]


def test_a_model_keeps_the_name_of_its_record(tmp_path: Path) -> None:
    keep(tmp_path, "y-run-mine", parse_spec("/y/run/mine"))
    assert names("/y/run/mine", folder=tmp_path) == ["y-run-mine"]
    assert names("/x/run/mine", folder=tmp_path) == ["mine"]
    # The one that has it keeps it, whichever is given first.
    assert names("/a/y-run-mine", "/y/run/mine", folder=tmp_path) == ["a-y-run-mine", "y-run-mine"]


def test_a_record_of_an_earlier_version_is_known_by_its_spec(tmp_path: Path) -> None:
    keep(tmp_path, "gpt2", parse_spec("gpt2"), origin=False)
    keep(tmp_path, "a-b", parse_spec("a/b"), origin=False)
    assert names("gpt2", folder=tmp_path) == ["gpt2"]
    assert names("a-b", folder=tmp_path)[0].startswith("a-b-")


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"model": 3}', "[" * 100_000])
def test_a_file_that_is_no_record_holds_no_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "results.json").write_text(content)
    assert names("gpt2", folder=tmp_path) == ["gpt2"]
    assert names("gpt2", folder=tmp_path / "nowhere") == ["gpt2"]


def test_a_name_that_had_to_change_is_told(tmp_path: Path) -> None:
    keep(tmp_path, "mine", parse_spec("gpt2"))
    spec = parse_spec("mine=org/name")
    (name,) = name_models([spec], tmp_path)
    (line,) = tell_names({name: spec, "gpt2": parse_spec("gpt2")}, tmp_path)
    assert f"mine=org/name is {name!r} here" in line and name != plain_name(spec)


def test_the_users_own_names_come_before_those_that_are_made() -> None:
    assert names("mine=/x/a", "/y/run/mine") == ["mine", "run-mine"]
    one, two = names("mine=/x/a", "mine=/x/b")
    assert one != two and one.startswith("mine-") and two.startswith("mine-")


def test_a_name_with_digits_may_be_another_models_too(tmp_path: Path) -> None:
    spec = parse_spec("mine=org/b")
    assert spec.origin is not None
    keep(tmp_path, "mine", parse_spec("org/a"))
    keep(tmp_path, f"mine-{spec.origin[:6]}", parse_spec("org/c"))
    assert name_models([spec], tmp_path) == [f"mine-{spec.origin}"]
    taken = [spec, parse_spec(f"mine-{spec.origin}=org/d"), parse_spec("mine=org/a")]
    assert len(set(name_models(taken, tmp_path))) == 3


@pytest.mark.parametrize("name", ["leaderboard.md", "comparison.md", "Report.html", "plotly-3.js"])
def test_no_model_is_called_like_a_report(name: str) -> None:
    with pytest.raises(SpecError, match="is that of a file"):
        parse_spec(f"{name}=gpt2")
    assert names(f"/a/{name}")[0].startswith(f"{name}-")


def test_joiners_are_no_control_characters_and_signs_that_turn_the_text_are() -> None:
    assert names("/a/me\u200cnu", "/a/m\u3000n") == ["me-nu", "m-n"]
    for char in "\n\x1b\u202e\u2028":
        with pytest.raises(SpecError, match="control character"):
            parse_spec(f"/a/x{char}y")


def test_what_cannot_be_a_name_is_told_beside_the_rest() -> None:
    with pytest.raises(SpecError, match="'a b' is no name: it may hold letters"):
        parse_spec("a b=gpt2")


def test_a_long_name_costs_no_time() -> None:
    names(f"/a/{'1' + '_a' * 2000}+x")


def test_without_an_origin_names_are_numbered() -> None:
    assert list(further_names("wrapped", None))[:2] == ["wrapped-other", "wrapped-other-2"]
