"""Real models are opened only when something has to be measured on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
import torch
import transformers
from conftest import TINY, Stage, plain
from hub_server import HubServer, Repo
from test_loading_hub import use_hub
from waiting import HANG

import icl_bench
from icl_bench.cli import main


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
    assert not any(request.startswith("GET") and "/resolve/" in request for request in asked)


def run_noting_imports(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a process that writes, when it ends, which heavy libraries it has loaded."""
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    names = [name for name in ('torch', 'transformers') if name in sys.modules]\n"
        "    open('imported', 'a').write(' '.join(names))\n"
    )
    return pytester.runpytest_subprocess(*arguments, timeout=HANG)


@pytest.mark.long
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


def test_a_seed_measures_anew_what_depends_on_it(tiny: Path) -> None:
    def cached(seed: int) -> list[bool]:
        record = icl_bench.run([tiny], "builtin:handwired", seed=seed)
        return [taken.cached for taken in record.measurements.values()]

    assert [cached(seed) for seed in (0, 0, 1, 1, 0)] == [
        [False, False],
        [True, True],
        [False, False],
        [True, True],
        [True, True],
    ]


def test_a_changed_source_of_heads_measures_anew_what_is_chosen_from_it(tiny: Path) -> None:
    icl_bench.run([tiny], "builtin:handwired")
    tiny.write_text(TINY.replace("control: false", "control: false, seed: 3"))
    record = icl_bench.run([tiny], "builtin:handwired")
    assert not any(taken.cached for taken in record.measurements.values())
    tiny.write_text(TINY.replace("above: 0.4}}", "above: 0.5}}"))
    record = icl_bench.run([tiny], "builtin:handwired")
    assert {key: taken.cached for key, taken in record.measurements.items()} == {
        "tiny/collapse": False,
        "tiny/repeats": True,
    }


def test_a_measurement_found_under_another_name_is_told_by_its_own(
    tiny: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace("tiny", "other").replace("repeats", "scan"))
    both = icl_bench.run([tiny, other], "builtin:handwired")
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
    # Checked once before the run, and not again to open it; transformers 4 asks by itself too.
    checked = sum(r.startswith("HEAD") and "main/config.json" in r for r in hub.requests)
    assert asked and (checked <= 2 or transformers.__version__.startswith("4."))


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
        record = icl_bench.run(["core"], str(folder))
        reasons = {c.reason for c in record.checks if c.kind == "quiz" and c.metric == "margin"}
        assert any("no text can be put to the model" in str(reason) for reason in reasons)
    assert len(openings) == 2


TWO = """
import sys
import icl_bench
print(*[m.cached for m in icl_bench.run([sys.argv[1]], "builtin:handwired").measurements.values()])
"""


def test_two_runs_at_once_share_a_cache(tiny: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tiny)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        text, _ = process.communicate(timeout=HANG)
        assert process.returncode == 0 and len(text.split()) == 2
    record = icl_bench.run([tiny], "builtin:handwired")
    assert all(taken.cached for taken in record.measurements.values())
    folder = Path(os.environ["ICL_BENCH_CACHE"]) / "measurements"
    assert len(list(folder.iterdir())) == 2


def test_tests_have_a_cache_each(tmp_path: Path) -> None:
    assert Path(os.environ["ICL_BENCH_CACHE"]).parent == tmp_path
    assert not Path(os.environ["ICL_BENCH_CACHE"]).exists()
