"""What was measured is not measured again, and nothing that changed is mistaken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from conftest import MINE, TINY, Stage
from hub_server import HubServer, Repo
from test_loading_hub import use_hub

import icl_bench
from icl_bench.cli import main
from icl_bench.models import opening
from icl_bench.record import RunRecord

GOOD = "--icl-model=stub:good"
SECOND = "{probe: stub, tag: second"
SOME = "* passed; 2 of 2 measurements from the cache"


@pytest.fixture
def kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose stub can be told from others, after a run of all checks."""
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert stage.log("measured") == ["good", "good second"]
    return stage


def new(stage: Stage, *arguments: str) -> list[str]:
    """Run again and return what was measured."""
    before = len(stage.log("measured"))
    stage.run(GOOD, "mine.yaml", *arguments)
    return stage.log("measured")[before:]


def test_a_second_run_measures_nothing_and_says_so(kept: Stage) -> None:
    first = kept.record("stub-good")
    result = kept.run(GOOD, "mine.yaml")
    assert result.ret == 0
    result.stdout.fnmatch_lines([SOME])
    assert kept.log("measured") == ["good", "good second"]
    second = kept.record("stub-good")
    assert all(taken.cached for taken in second.measurements.values())
    assert not any(taken.cached for taken in first.measurements.values())
    for key, taken in second.measurements.items():
        assert taken.model_copy(update={"cached": False}) == first.measurements[key]
    assert second.checks == first.checks and second.model == first.model
    report = (kept.path / "reports" / "stub-good" / "report.md").read_text()
    assert "2 of 2 measurements from the cache" in report
    assert report.count("in the run that took it, from the cache") == 2


def test_other_checks_on_the_same_measurements_measure_nothing(kept: Stage) -> None:
    text = MINE.replace("above: 0.5", "above: 7").replace('"Is it high?"', '"Is it very high?"')
    text = text.replace("name: mine", "name: other").replace("first", "renamed")
    kept.write("mine.yaml", text + "  - {id: more, on: second, metric: exact, above: 0}\n")
    assert new(kept) == []
    verdicts = {"high": "fail", "there": "pass", "low": "pass", "more": "pass"}
    assert kept.verdicts("stub-good") == verdicts


def test_a_changed_setting_and_a_new_measurement_are_measured_and_nothing_else(
    kept: Stage,
) -> None:
    text = MINE.replace("tag: second", "tag: changed")
    kept.write("mine.yaml", text)
    assert new(kept) == ["good changed"]
    text = text.replace("checks:", "  third: {probe: stub, tag: third}\nchecks:")
    kept.write("mine.yaml", text + "  - {id: more, on: third, metric: exact, above: 0}\n")
    assert new(kept) == ["good third"]
    assert [m.cached for m in kept.record("stub-good").measurements.values()] == [1, 1, 0]


def test_another_model_and_other_weights_are_measured(
    kept: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.run("--icl-model=stub:fine", "mine.yaml")
    assert kept.log("measured")[2:] == ["fine", "fine second"]
    monkeypatch.setenv("STUB_WEIGHTS", "2")
    assert new(kept) == ["good", "good second"]


def test_a_changed_probe_is_measured(kept: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl_bench.memory.module_version", lambda name: "other")
    assert new(kept) == ["good", "good second"]


def test_without_the_cache_nothing_is_read_and_nothing_written(kept: Stage) -> None:
    folder = Path(os.environ["ICL_BENCH_CACHE"])
    before = {path: path.stat() for path in folder.rglob("*")}
    assert new(kept, "--icl-no-cache") == ["good", "good second"]
    kept.write("mine.yaml", MINE.replace("tag: second", "tag: changed"))
    new(kept, "--icl-no-cache")
    after = {path: path.stat() for path in folder.rglob("*")}
    assert {p: s.st_mtime_ns for p, s in before.items()} == {
        p: s.st_mtime_ns for p, s in after.items()
    }


def test_the_folder_can_be_chosen_and_be_deleted(kept: Stage) -> None:
    assert new(kept, "--icl-cache-dir=here") == ["good", "good second"]
    assert new(kept, "--icl-cache-dir=here") == []
    for path in (kept.path / "here" / "measurements").iterdir():
        path.unlink()
    assert new(kept, "--icl-cache-dir=here") == ["good", "good second"]


def test_a_broken_entry_is_measured_again_and_replaced(kept: Stage) -> None:
    folder = Path(os.environ["ICL_BENCH_CACHE"]) / "measurements"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert new(kept) == ["good", "good second"]
    assert new(kept) == []


def test_a_cache_that_cannot_be_written_is_one_warning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    Path(os.environ["ICL_BENCH_CACHE"]).write_text("a file where a folder is needed")
    result = stage.run(GOOD, "mine.yaml")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(
        ["*CacheWarning: * cannot be written (*); what is measured is not*"]
    )


@pytest.mark.parametrize("act", ["break", "interrupt"])
def test_what_failed_is_tried_again_and_what_came_before_it_is_kept(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: {act}"))
    stage.run(GOOD, "mine.yaml")
    assert stage.log("measured") == ["good", "good second"]
    assert new(stage) == ["good second"]


def test_a_process_that_is_killed_loses_only_what_it_was_measuring(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: crash"))
    assert stage.run_apart(GOOD, "mine.yaml").ret == 9
    stage.write("mine.yaml", MINE)
    assert new(stage) == ["good second"]


def test_workers_keep_and_find_what_is_measured(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    both = (GOOD, "--icl-model=stub:fine", "mine.yaml", "-n", "2")
    for _ in range(2):
        stage.run_apart(*both).assert_outcomes(passed=6)
        assert len(stage.log("measured")) == 4
    assert all(taken.cached for taken in stage.record("stub-fine").measurements.values())
    assert new(stage) == []


# Real models: what opening costs and what a record says.


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model that is really opened."""
    opened: list[str] = []
    original = opening.open_model

    def count(spec: Any, *rest: Any) -> Any:
        opened.append(spec.text)
        return original(spec, *rest)

    monkeypatch.setattr(opening, "open_model", count)
    return opened


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    main, late = (checkpoints.write_llama(tmp_path / f"hub-{n}", seed=n) for n in range(2))
    with HubServer({"org/tiny": Repo({"main": main, "late": late})}) as server:
        use_hub(monkeypatch, server.endpoint, tmp_path / "hub-cache")
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def spec_of(kind: str, folder: Path) -> str:
    if kind == "folder":
        return str(checkpoints.write_llama(folder / "model", vocab_size=64))
    if kind == "gguf":
        return str(checkpoints.write_gguf(folder / "model.gguf"))
    return {"builtin": "builtin:handwired", "hub": "org/tiny"}[kind]


def plain(record: RunRecord) -> dict[str, Any]:
    """A record without what differs between two runs of the same."""
    data = record.model_dump(exclude={"created"})
    for taken in data["measurements"].values():
        del taken["cached"]
    return data


SMALL = TINY.replace("period: 8", "period: 4")


@pytest.mark.parametrize("kind", ["builtin", "folder", "gguf", "hub"])
def test_a_second_run_opens_no_model_and_imports_no_torch(
    pytester: pytest.Pytester, tmp_path: Path, hub: HubServer, kind: str
) -> None:
    spec = spec_of(kind, tmp_path)
    path = pytester.path / "small.yaml"
    path.write_text(SMALL)
    first = icl_bench.run([path], spec)
    assert {taken.status for taken in first.measurements.values()} == {"measured"}
    hub.requests.clear()
    result = run_noting_imports(pytester, f"--icl-model={spec}", "small.yaml")
    result.stdout.fnmatch_lines(["*2 of 2 measurements from the cache"])
    assert (pytester.path / "imported").read_text().split() == []
    (record,) = pytester.path.glob("reports/*/results.json")
    assert plain(icl_bench.read_record(record)) == plain(first)
    # The hub's own client may ask for things of its own.
    asked = [request for request in hub.requests if "org/tiny" in request]
    assert len(asked) <= (5 if kind == "hub" else 0)
    assert not any(request.startswith("GET") for request in asked)


def run_noting_imports(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a process that writes, when it ends, which heavy libraries it has loaded."""
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    names = [name for name in ('torch', 'transformers') if name in sys.modules]\n"
        "    open('imported', 'a').write(' '.join(names))\n"
    )
    return pytester.runpytest_subprocess(*arguments, timeout=300)


def test_the_test_about_imports_can_fail(pytester: pytest.Pytester) -> None:
    (pytester.path / "tiny.yaml").write_text(TINY)
    icl_bench.run([pytester.path / "tiny.yaml"], "builtin:handwired")
    run_noting_imports(pytester, "--icl-model=builtin:handwired", "tiny.yaml", "--icl-no-cache")
    assert (pytester.path / "imported").read_text().split() == ["torch", "transformers"]


def test_under_xdist_a_second_run_imports_no_torch_either(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    (pytester.path / "tiny.yaml").write_text(TINY)
    icl_bench.run([pytester.path / "tiny.yaml"], "builtin:handwired")
    result = run_noting_imports(pytester, "--icl-model=builtin:handwired", "tiny.yaml", "-n", "1")
    result.assert_outcomes(passed=2)
    # Workers and controller write one after the other.
    assert (pytester.path / "imported").read_text().split() == []


def test_the_command_takes_from_the_cache_what_pytest_measured_and_can_do_without(
    real_stage: Stage, openings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = "builtin:handwired"
    assert real_stage.run(f"--icl-model={model}", "tiny.yaml").ret == 0
    assert openings == [model]
    command = ["run", model, "--suite", "tiny.yaml"]
    assert main(command) == 0
    assert "2 of 2 measurements from the cache" in capsys.readouterr().out
    assert openings == [model]
    assert main([*command, "--no-cache"]) == 0
    assert "from the cache" not in capsys.readouterr().out
    assert main([*command, "--cache-dir", "elsewhere"]) == 0
    assert openings == [model] * 3


def test_only_the_checks_that_will_run_decide_whether_a_model_is_opened(
    real_stage: Stage, openings: list[str]
) -> None:
    model = "--icl-model=builtin:handwired"
    real_stage.run(model, "tiny.yaml", "-k", "has-induction-heads")
    real_stage.run(model, "tiny.yaml", "-k", "has-induction-heads")
    assert len(openings) == 1
    real_stage.run(model, "tiny.yaml")
    assert len(openings) == 2
    record = real_stage.record("builtin-handwired")
    assert [taken.cached for taken in record.measurements.values()] == [False, True]


def test_a_seed_measures_anew_what_depends_on_it(suite: Path) -> None:
    def cached(seed: int) -> list[bool]:
        record = icl_bench.run([suite], "builtin:handwired", seed=seed)
        return [taken.cached for taken in record.measurements.values()]

    assert [cached(seed) for seed in (0, 0, 1, 1, 0)] == [
        [False, False],
        [True, True],
        [False, False],
        [True, True],
        [True, True],
    ]


def test_a_changed_source_of_heads_measures_anew_what_is_chosen_from_it(suite: Path) -> None:
    icl_bench.run([suite], "builtin:handwired")
    suite.write_text(TINY.replace("control: false", "control: false, seed: 3"))
    record = icl_bench.run([suite], "builtin:handwired")
    assert not any(taken.cached for taken in record.measurements.values())
    suite.write_text(TINY.replace("above: 0.4}}", "above: 0.5}}"))
    record = icl_bench.run([suite], "builtin:handwired")
    assert {key: taken.cached for key, taken in record.measurements.items()} == {
        "tiny/collapse": False,
        "tiny/repeats": True,
    }


def test_a_measurement_found_under_another_name_is_told_by_its_own(
    suite: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace("tiny", "other").replace("repeats", "scan"))
    both = icl_bench.run([suite, other], "builtin:handwired")
    after = icl_bench.run([other], "builtin:handwired")
    for record in (both, after):
        assert record.measurements["other/collapse"].settings["heads"]["from"] == "scan"
        assert set(record.measurements) >= {"other/scan", "other/collapse"}
    assert both.measurements["tiny/collapse"].settings["heads"]["from"] == "repeats"
    assert all(taken.cached for taken in after.measurements.values())


def edit_one_weight(folder: Path) -> None:
    """Change the last weight by one step, in place, size and time of modification as before."""
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    stat = file.stat()
    before = load_file(file)["model.norm.weight"]
    step = torch.nextafter(before[-1], torch.tensor(2.0)).item()
    assert step != before[-1]
    checkpoints.edit_weights(
        folder, model__norm__weight=torch.cat([before[:-1], torch.tensor([step])])
    )
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def test_one_weight_changed_by_one_step_is_noticed(tmp_path: Path, openings: list[str]) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SMALL)
    folder = Path(spec_of("folder", tmp_path))
    first = icl_bench.run([suite], str(folder))
    edit_one_weight(folder)
    second = icl_bench.run([suite], str(folder))
    assert not any(taken.cached for taken in second.measurements.values())
    assert second.model.fingerprint != first.model.fingerprint
    assert len(openings) == 2


def test_a_gguf_file_changed_unseen_is_converted_anew(tmp_path: Path) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SMALL)
    file = Path(spec_of("gguf", tmp_path))
    first = icl_bench.run([suite], str(file))
    stat = file.stat()
    checkpoints.write_gguf(file, seed=1)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    second = icl_bench.run([suite], str(file))
    assert not any(taken.cached for taken in second.measurements.values())
    assert second.model.fingerprint != first.model.fingerprint


def test_a_touched_file_costs_opening_and_no_measuring(tmp_path: Path, openings: list[str]) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SMALL)
    folder = Path(spec_of("folder", tmp_path))
    icl_bench.run([suite], str(folder))
    os.utime(folder / "config.json")
    second = icl_bench.run([suite], str(folder))
    assert all(taken.cached for taken in second.measurements.values())
    icl_bench.run([suite], str(folder))
    assert len(openings) == 2


def test_a_hub_model_is_measured_anew_at_another_commit(
    hub: HubServer, tmp_path: Path, openings: list[str]
) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SMALL)
    first = icl_bench.run([suite], "org/tiny")
    asked = len([request for request in hub.requests if "config.json" in request])
    late = icl_bench.run([suite], "org/tiny@late")
    assert not any(taken.cached for taken in late.measurements.values())
    assert first.model.revision != late.model.revision
    # The same commit by another name: neither opened nor measured.
    again = icl_bench.run([suite], f"org/tiny@{late.model.revision}")
    assert all(taken.cached for taken in again.measurements.values())
    assert len(openings) == 2
    # Checked once before the run, and not again to open it.
    checked = sum(r.startswith("HEAD") and "main/config.json" in r for r in hub.requests)
    assert asked and checked <= 2


def memories() -> list[Path]:
    """The files that hold what is known of models."""
    return sorted(Path(os.environ["ICL_BENCH_CACHE"]).glob("models/*"))


def test_a_model_that_is_not_what_was_remembered_is_measured_anew(
    suite: Path, openings: list[str]
) -> None:
    # Two models whose files look the same: what is remembered of one is put under the other.
    icl_bench.run([suite], "builtin:handwired-shift-2")
    (wrong,) = memories()
    content = wrong.read_text()
    wrong.unlink()
    icl_bench.run([suite], "builtin:handwired", seed=9)
    (path,) = memories()
    path.write_text(content)
    extended = TINY.replace("checks:", "  more: {probe: induction, seed: 4}\nchecks:")
    suite.write_text(extended + "  - {id: more, on: more, metric: induction_max, above: 0.4}\n")
    record = icl_bench.run([suite], "builtin:handwired")
    assert not any(taken.cached for taken in record.measurements.values())
    fresh = icl_bench.run([suite], "builtin:handwired", cache=False)
    assert record.checks == fresh.checks and record.model == fresh.model
    assert path.read_text() != content
    again = icl_bench.run([suite], "builtin:handwired")
    assert all(taken.cached for taken in again.measurements.values())
    assert again.model == fresh.model


def test_a_model_that_turns_out_another_after_its_results_were_used_is_an_error(
    real_stage: Stage,
) -> None:
    icl_bench.run([real_stage.path / "tiny.yaml"], "builtin:handwired-shift-2")
    (wrong,) = memories()
    content = wrong.read_text()
    wrong.unlink()
    icl_bench.run([real_stage.path / "tiny.yaml"], "builtin:handwired", seed=9)
    (path,) = memories()
    path.write_text(content)
    # One model alone keeps the order of the command line: the suite comes first.
    real_stage.write("test_it.py", "def test_it(icl_model): pass")
    result = real_stage.run("--icl-model=builtin:handwired", "tiny.yaml", "test_it.py")
    result.stdout.fnmatch_lines(["*model 'builtin:handwired' changed while it was tested: *"])
    assert result.ret == 1
    # What was wrong is forgotten.
    result = real_stage.run("--icl-model=builtin:handwired", "tiny.yaml", "test_it.py")
    assert result.ret == 0


def test_a_callable_is_opened_and_its_weights_decide(
    tmp_path: Path, suite: Path, openings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import icl_bench\ndef make(): return icl_bench.load_model('builtin:handwired{}')\n"
    found = []
    for shift in ("", "", "-shift-2"):
        (tmp_path / "my_models.py").write_text(code.format(shift))
        sys.modules.pop("my_models", None)
        record = icl_bench.run([suite], "my_models:make")
        found.append([taken.cached for taken in record.measurements.values()])
    sys.modules.pop("my_models", None)
    assert found == [[False, False], [True, True], [False, False]]
    assert openings == ["my_models:make"] * 3
    assert memories() == []


def test_a_wrapped_model_is_known_by_its_weights_at_the_time(suite: Path) -> None:
    opened = icl_bench.load_model("builtin:handwired")
    module = opened.model
    model = icl_bench.wrap(module, opened.tokenizer)

    def run(**options: Any) -> RunRecord:
        return icl_bench.run([suite], model, **options)

    first, second = run(), run()
    assert not any(taken.cached for taken in first.measurements.values())
    assert all(taken.cached for taken in second.measurements.values())
    assert plain(first) == plain(second)
    # The same as the model of that name, which is another way to the same weights.
    named = icl_bench.run([suite], "builtin:handwired")
    assert all(taken.cached for taken in named.measurements.values())
    assert not any(taken.cached for taken in run(cache=False).measurements.values())
    with torch.no_grad():
        next(module.parameters()).data[0, 0] += 1e-3  # seen by no counter of torch's
    third = run()
    assert not any(taken.cached for taken in third.measurements.values())
    assert third.model.fingerprint != first.model.fingerprint


def test_a_wrapped_model_with_a_hook_is_measured_and_not_kept(suite: Path) -> None:
    from icl_bench.cache import CacheWarning

    opened = icl_bench.load_model("builtin:handwired")
    icl_bench.run([suite], opened)
    hook = opened.model.register_forward_pre_hook(lambda part, given: None)
    with pytest.warns(CacheWarning, match="has a hook or a forward of test_cache_runs's own"):
        record = icl_bench.run([suite], opened)
    assert not any(taken.cached for taken in record.measurements.values())
    hook.remove()
    record = icl_bench.run([suite], opened)
    assert all(taken.cached for taken in record.measurements.values())


def test_a_test_that_changes_the_model_it_was_lent_spoils_neither_checks_nor_cache(
    real_stage: Stage, openings: list[str]
) -> None:
    real_stage.write(
        "test_it.py",
        "def test_it(icl_model):\n"
        "    for weight in icl_model.model.parameters(): weight.data.zero_()\n",
    )
    model = "builtin:handwired"
    result = real_stage.run(f"--icl-model={model}", "test_it.py", "tiny.yaml")
    result.assert_outcomes(passed=3)
    assert openings == [model] * 2
    fresh = icl_bench.run([real_stage.path / "tiny.yaml"], model, cache=False)
    found = icl_bench.run([real_stage.path / "tiny.yaml"], model)
    assert found.checks == fresh.checks and found.model == fresh.model
    assert all(taken.cached for taken in found.measurements.values())


def test_a_test_that_only_looks_costs_no_second_opening(
    real_stage: Stage, openings: list[str]
) -> None:
    real_stage.write("test_it.py", "def test_it(icl): assert len(icl.head_scores()) == 48")
    result = real_stage.run("--icl-model=builtin:handwired", "test_it.py", "tiny.yaml")
    result.assert_outcomes(passed=3)
    assert len(openings) == 1


def test_suites_that_a_test_runs_keep_to_the_options(real_stage: Stage) -> None:
    real_stage.write(
        "test_it.py",
        "def test_it(icl):\n"
        "    record = icl.run(['tiny.yaml'])\n"
        "    print(*[taken.cached for taken in record.measurements.values()])\n",
    )

    def cached(*options: str) -> str:
        result = real_stage.run("--icl-model=builtin:handwired", "test_it.py", "-s", *options)
        return next(line for line in result.outlines if line.startswith(("True", "False", "test")))

    assert [cached() for _ in range(2)] == ["test_it.py False False", "test_it.py True True"]
    assert cached("--icl-no-cache") == "test_it.py False False"
    assert cached("--icl-cache-dir=here") == "test_it.py False False"
    assert cached("--icl-cache-dir=here") == "test_it.py True True"


def test_a_model_without_heads_is_opened_once(tmp_path: Path, openings: list[str]) -> None:
    import transformers

    config = transformers.MambaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    folder = tmp_path / "mamba"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    suite = tmp_path / "small.yaml"
    suite.write_text(SMALL)
    first, second = (icl_bench.run([suite], str(folder)) for _ in range(2))
    assert {check.verdict for check in first.checks} == {"skipped"}
    assert second.checks == first.checks
    assert len(openings) == 1


def test_what_is_skipped_for_want_of_a_tokenizer_is_tried_again(
    tmp_path: Path, openings: list[str]
) -> None:
    folder = checkpoints.write_llama(tmp_path / "model", tokenizer=False)
    for _ in range(2):
        record = icl_bench.run(["quiz"], str(folder))
        reasons = {c.reason for c in record.checks if c.kind == "quiz" and c.metric == "margin"}
        assert any("no text can be put to the model" in str(reason) for reason in reasons)
    assert len(openings) == 2


TWO = """
import sys
import icl_bench
print(*[m.cached for m in icl_bench.run([sys.argv[1]], "builtin:handwired").measurements.values()])
"""


def test_two_runs_at_once_share_a_cache(suite: Path) -> None:
    command = [sys.executable, "-c", TWO, str(suite)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and len(text.split()) == 2
    record = icl_bench.run([suite], "builtin:handwired")
    assert all(taken.cached for taken in record.measurements.values())
    folder = Path(os.environ["ICL_BENCH_CACHE"]) / "measurements"
    assert len(list(folder.iterdir())) == 2


def test_tests_have_a_cache_each(tmp_path: Path) -> None:
    assert Path(os.environ["ICL_BENCH_CACHE"]).parent == tmp_path
    assert not Path(os.environ["ICL_BENCH_CACHE"]).exists()
