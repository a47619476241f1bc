"""Which checkpoints a series consists of, and what is said about a spec that names none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
from hub_server import HubServer, Repo
from test_loading_hub import use_hub

from icl_bench import reference
from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps, read_training_loss, step_of
from icl_bench.naming import name_models
from icl_bench.running.checks import applies
from icl_bench.suite import CheckSpec

STEPS = (1, 64, 500, 2000)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in model whose training is shipped, as far as its names go."""
    steps = {"induction-2l": STEPS}
    losses = {"induction-2l": {1: 6.0, 2: 5.5, 3: float("nan")}}
    monkeypatch.setattr(reference, "series_steps", lambda n: steps.get(n, ()), raising=False)
    monkeypatch.setattr(reference, "training_losses", lambda n: losses[n], raising=False)


def make(folder: str, *names: str) -> Path:
    """Make empty checkpoints, with no more than a config.json."""
    for name in names:
        path = Path(folder, name)
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
    return Path(folder)


def steps(text: str) -> dict[int, str]:
    """Step -> name of a series' checkpoints."""
    found = find_steps(parse_spec(text))
    assert [one.step for one in found] == sorted(one.step for one in found)
    return {one.step: one.spec.revision or "" for one in found}


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(text))
    message = str(caught.value)
    assert message.startswith(f"model {text!r}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("step1000", 1000),
        ("step_1000", 1000),
        ("step-7", 7),
        ("global_step500", 500),
        ("iter_0005000", 5000),
        ("0", 0),
        ("ckpt.12", 12),
        ("epoch3", 3),
        ("step1000-tokens4B", 1000),
        ("stage1-step1000-tokens4", 1000),
        ("Step20", 20),
        ("timestep9", 9),
        ("main", None),
        ("v1.5", None),
        ("v1.10", None),
        ("step1.5", None),
        ("final", None),
        ("tokens5B", None),
        ("checkpoint-500-old", None),
        ("9" * 19, None),
    ],
)
def test_the_step_is_read_off_a_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_a_folder_of_checkpoints_is_a_series_in_the_order_of_steps() -> None:
    make("runs", "checkpoint-1000", "checkpoint-50", "checkpoint-200", "final", ".checkpoint-3")
    Path("runs", "checkpoint-70").write_text("a file")
    assert steps("runs@*") == {50: "checkpoint-50", 200: "checkpoint-200", 1000: "checkpoint-1000"}
    spec = parse_spec("runs@*")
    assert (spec.kind, spec.series, spec.public) == ("folder", "*", "runs@*")
    assert spec.target == str(Path("runs").absolute())
    found = find_steps(spec)[0].spec
    assert (found.kind, found.target) == ("folder", str(Path("runs/checkpoint-50").absolute()))
    assert found.public == "runs@checkpoint-50"
    assert parse_spec(found.text).target == found.target


def test_other_folders_that_end_in_a_number_are_no_checkpoints() -> None:
    make("runs", "step1", "step2")
    for name in ("logs-2024", "step3", "run.5"):
        Path("runs", name).mkdir()
    # A checkpoint that has lost its files is told from them by its name.
    assert steps("runs@*") == {1: "step1", 2: "step2", 3: "step3"}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("1,500", [1, 500]),
        ("500,1,500", [1, 500]),
        ("step1, step64", [1, 64]),
        ("step5*,1", [1, 500]),
        ("*0*,1", [1, 500, 2000]),
        ("*", list(STEPS)),
    ],
)
def test_a_list_or_a_pattern_takes_some(selection: str, expected: list[int]) -> None:
    make("runs", *(f"step{step}" for step in STEPS))
    assert list(steps(f"runs@{selection}")) == expected


def test_one_checkpoint_is_an_ordinary_model() -> None:
    make("runs", *(f"step{step:06d}" for step in STEPS))
    for text in ("runs@500", "runs@step000500"):
        spec = parse_spec(text)
        assert (spec.kind, spec.series, spec.public) == ("folder", None, text)
        assert spec.target == str(Path("runs/step000500").absolute())
        assert name_models([spec]) == [text.replace("@", "-")]
    assert parse_spec(f"{Path('runs').absolute()}@1").public == "runs@1"


def test_a_folder_may_have_the_sign_in_its_name() -> None:
    make("me@home/runs", "step1", "step2")
    make("a@*", "step1", "step2")
    assert list(steps("me@home/runs@*")) == [1, 2]
    assert parse_spec("me@home/runs@2").public == "runs@2"
    assert parse_spec("a@*").series is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs@7", "folder 'runs' has no checkpoint '7'; nearest: step1, step64"),
        ("runs@step63", "no checkpoint 'step63'; did you mean 'step64'?"),
        ("runs@1,9,64", "no checkpoint '9'"),
        ("runs@x*", "no checkpoint 'x*'"),
        ("runs@1,", "no checkpoint ''"),
        ("runs@step6*", "a series needs two checkpoints or more, and folder 'runs' has one"),
        ("plain@*", "holds no checkpoints: looked for sub-folders with names that end in the step"),
        ("plain@5", "'plain' is a local path, and those have no revisions"),
        ("./none@*", "there is no folder"),
        ("twice@*", "has checkpoints of several kinds (ckpt-5, step5); name those"),
        ("twice@*5", "has two checkpoints of step 5: "),
        ("runs@*", "fewer than two of its 2 checkpoints can be read: 'runs@step1': its config.jso"),
    ],
)
def test_a_series_that_is_none_is_refused_with_the_reason(text: str, message: str) -> None:
    make("runs", "step1", "step64")
    make("twice", "step5", "ckpt-5", "step6")
    make("plain", "final", "best")
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        check_spec(parse_spec(text))
    assert str(caught.value).startswith(f"model {text!r}: ")
    assert "\n" not in str(caught.value)


def test_two_good_checkpoints_are_enough() -> None:
    for name, seed in (("step2", 0), ("step3", 1)):
        checkpoints.write_llama(Path("runs", name), seed=seed)
    make("runs", "step1", "step4")
    found = check_spec(parse_spec("runs@*"))
    assert isinstance(found, tuple) and [one.step for one in found] == [1, 2, 3, 4]
    (Path("runs/step3") / "model.safetensors").write_bytes(b"cut")
    assert "'runs@step1': its config.json names neither" in refusal("runs@*")


def test_a_folder_without_config_says_that_it_may_be_a_series() -> None:
    make("runs", "checkpoint-5")
    assert "give one of them: checkpoint-5 (or all, as a series: 'runs@*')" in refusal("runs")


def test_a_built_in_models_training_is_a_series(trained: None) -> None:
    spec = parse_spec("builtin:induction-2l@*")
    assert (spec.kind, spec.target, spec.series) == ("builtin", "induction-2l", "*")
    assert spec.public == "builtin:induction-2l@*"
    assert name_models([spec]) == ["builtin-induction-2l--"]
    assert [one.step for one in find_steps(spec)] == list(STEPS)
    assert find_steps(spec)[1].spec == parse_spec("builtin:induction-2l@64")
    assert list(steps("builtin:induction-2l@1,2000")) == [1, 2000]
    one = parse_spec("builtin:induction-2l@64")
    assert (one.kind, one.target, one.revision) == ("builtin", "induction-2l", "64")
    assert parse_spec("builtin:induction-2l").revision is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("builtin:induction-2l@65", "has no checkpoint '65'; nearest: 1, 64, 500, 2000"),
        ("builtin:induction-2l@1,65", "has no checkpoint '65'"),
        ("builtin:induction-2l@", "has no checkpoint ''"),
        ("builtin:handwired@*", "no checkpoints of its training are shipped"),
        ("builtin:handwire@*", "did you mean 'handwired'?"),
    ],
)
def test_a_step_that_is_not_shipped_is_refused(trained: None, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_spec(text)


def test_the_slug_of_a_series_follows_its_spec() -> None:
    make("runs", "step1", "step2")
    make("other/runs", "step1", "step2")
    assert name_models([parse_spec("runs@*"), parse_spec("runs@1,2")]) == ["runs--", "runs-1-2"]
    both = name_models([parse_spec("runs@*"), parse_spec("other/runs@*")])
    assert len(set(both)) == 2 and both[1] == "other-runs--"


def test_a_check_names_a_series_by_its_spec_or_a_pattern() -> None:
    def meant(*models: str) -> bool:
        return applies(CheckSpec("a", "b", "c", "above", 0, models=models), ["gpt2@*", "gpt2--"])

    assert meant("gpt2@*") and meant("gpt2*") and meant("gpt2--") and meant("*")
    assert not meant("gpt2") and not meant("gpt2@5", "other@*")


def test_the_recorded_loss_is_that_of_the_last_checkpoint_that_has_it() -> None:
    make("runs", "checkpoint-10", "checkpoint-20", "checkpoint-30")
    history = [{"step": 5, "loss": 3.0}, {"step": 10, "loss": 2.5, "epoch": 1}]
    state = {"log_history": history}
    Path("runs/checkpoint-10/trainer_state.json").write_text(json.dumps(state))
    history += [
        {"step": 15, "eval_loss": 2.2},
        {"step": 20, "loss": 2.0},
        {"step": 21, "loss": float("nan")},
        {"loss": 9.0},
        {"step": 22, "loss": "low"},
    ]
    Path("runs/checkpoint-20/trainer_state.json").write_text(json.dumps(state))
    Path("runs/checkpoint-30/trainer_state.json").write_text("cut")
    spec = parse_spec("runs@*")
    assert read_training_loss(spec, find_steps(spec)) == {5: 3.0, 10: 2.5, 20: 2.0}
    for place in ("10", "20"):
        Path(f"runs/checkpoint-{place}/trainer_state.json").unlink()
    assert read_training_loss(spec, find_steps(spec)) == {}


def test_the_recorded_loss_of_a_built_in_model_comes_with_it(trained: None) -> None:
    spec = parse_spec("builtin:induction-2l@*")
    assert read_training_loss(spec, find_steps(spec)) == {1: 6.0, 2: 5.5}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    folders = {
        name: checkpoints.write_llama(tmp_path / name, seed=seed)
        for seed, name in enumerate(("main", "step0", "step512", "step1000"))
    }
    bare = checkpoints.write_llama(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    repos = {
        "org/run": Repo(folders),
        "org/tail": Repo({"main": folders["main"], "step1": folders["step0"], "step2": bare}),
        "org/bare": Repo({"step1": bare, "step2": bare}),
        "org/plain": Repo({"main": folders["main"], "v1.0": folders["main"]}),
        "org/mixed": Repo(
            {
                **{name: folders[name] for name in ("main", "step0", "step1000")},
                **dict.fromkeys(("fp16", "v1", "v2"), folders["main"]),
            }
        ),
        "org/gated": Repo(folders, gated=True),
        "org/down": Repo(folders, status=503),
    }
    with HubServer(repos) as server:
        use_hub(monkeypatch, server.endpoint, tmp_path / "cache")
        yield server


def test_the_revisions_of_a_repository_are_a_series(hub: HubServer) -> None:
    spec = parse_spec("org/run@*")
    assert (spec.kind, spec.target, spec.series) == ("hub", "org/run", "*")
    assert spec.public == "org/run@*" and name_models([spec]) == ["org-run--"]
    found = check_spec(spec)
    assert isinstance(found, tuple)
    assert [(one.step, one.spec.text) for one in found] == [
        (0, "org/run@step0"),
        (512, "org/run@step512"),
        (1000, "org/run@step1000"),
    ]
    assert found[1].spec == parse_spec("org/run@step512")
    assert list(steps("org/run@step0,1000")) == [0, 1000]
    assert list(steps("org/run@step5*,0")) == [0, 512]


def test_a_star_takes_one_kind_of_names(hub: HubServer, tmp_path: Path) -> None:
    """`fp16` and `v2` end in numbers, and are no steps of a run that says which ones are."""
    assert list(steps("org/mixed@*")) == [0, 1000]
    assert list(steps("org/mixed@v1,v2")) == [1, 2]
    folder = tmp_path / "kinds"
    for seed, name in enumerate(("epoch-1", "epoch-2", "checkpoint-500")):
        checkpoints.write_llama(folder / name, seed=seed)
    with pytest.raises(SpecError, match=r"several kinds \(.*name those that are meant"):
        check_spec(parse_spec(f"{folder}@*"))
    assert list(steps(f"{folder}@epoch-*")) == [1, 2]


def test_the_last_revision_may_be_broken_and_not_every_one_is_asked_for(hub: HubServer) -> None:
    check_spec(parse_spec("org/run@*"))
    assert not any("step512" in request for request in hub.requests)
    assert isinstance(check_spec(parse_spec("org/tail@*")), tuple)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/run@step0,step7", "has no checkpoint 'step7'"),
        ("org/plain@*", "looked for branches and tags with names that end in the step"),
        ("org/bare@*", "the repository has no weights (model.safetensors) at revision 'step2'"),
        ("org/none@*", "has no such model"),
        ("org/gated@*", "access to it is restricted"),
        ("org/down@*", "answers with status 503, and no revision of it is in the cache"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub: HubServer, text: str, message: str) -> None:
    assert message in refusal(text)


def test_without_the_hub_the_revisions_in_its_cache_are_the_series(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("step0", "step512"):
        check_spec(parse_spec(f"org/run@{name}"))
    hub.repos["org/run"].status = 503
    assert list(steps("org/run@*")) == [0, 512]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert list(steps("org/run@*")) == [0, 512]
