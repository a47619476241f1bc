"""What is found in the cache belongs to the very model that is asked about."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Stage, plain

import icl_bench
from icl_bench.records.record import RunRecord


def memories() -> list[Path]:
    """The files that hold what is known of models."""
    return sorted(Path(os.environ["ICL_BENCH_CACHE"]).glob("models/*"))


def test_a_model_that_is_not_what_was_remembered_is_measured_anew(
    tiny: Path, openings: list[str]
) -> None:
    # Two models whose files look the same: what is remembered of one is put under the other.
    icl_bench.run([tiny], "builtin:handwired-shift-2")
    (wrong,) = memories()
    content = wrong.read_text()
    wrong.unlink()
    icl_bench.run([tiny], "builtin:handwired", seed=9)
    (path,) = memories()
    path.write_text(content)
    extended = TINY.replace("checks:", "  more: {probe: induction, seed: 4}\nchecks:")
    tiny.write_text(extended + "  - {id: more, on: more, metric: induction_max, above: 0.4}\n")
    record = icl_bench.run([tiny], "builtin:handwired")
    assert not any(taken.cached for taken in record.measurements.values())
    fresh = icl_bench.run([tiny], "builtin:handwired", cache=False)
    assert record.checks == fresh.checks and record.model == fresh.model
    assert path.read_text() != content
    again = icl_bench.run([tiny], "builtin:handwired")
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
    tmp_path: Path, tiny: Path, openings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import icl_bench\ndef make(): return icl_bench.load_model('builtin:handwired{}')\n"
    found = []
    for shift in ("", "", "-shift-2"):
        (tmp_path / "my_models.py").write_text(code.format(shift))
        sys.modules.pop("my_models", None)
        record = icl_bench.run([tiny], "my_models:make")
        found.append([taken.cached for taken in record.measurements.values()])
    sys.modules.pop("my_models", None)
    assert found == [[False, False], [True, True], [False, False]]
    assert openings == ["my_models:make"] * 3
    assert memories() == []


def test_a_wrapped_model_is_known_by_its_weights_at_the_time(tiny: Path) -> None:
    opened = icl_bench.load_model("builtin:handwired")
    module = opened.model
    model = icl_bench.wrap(module, opened.tokenizer)

    def run(**options: Any) -> RunRecord:
        return icl_bench.run([tiny], model, **options)

    first, second = run(), run()
    assert not any(taken.cached for taken in first.measurements.values())
    assert all(taken.cached for taken in second.measurements.values())
    assert plain(first) == plain(second)
    # The same as the model of that name, which is another way to the same weights.
    named = icl_bench.run([tiny], "builtin:handwired")
    assert all(taken.cached for taken in named.measurements.values())
    assert not any(taken.cached for taken in run(cache=False).measurements.values())
    with torch.no_grad():
        next(module.parameters()).data[0, 0] += 1e-3  # seen by no counter of torch's
    third = run()
    assert not any(taken.cached for taken in third.measurements.values())
    assert third.model.fingerprint != first.model.fingerprint


def test_a_wrapped_model_with_a_hook_is_measured_and_not_kept(tiny: Path) -> None:
    from icl_bench.running.cache import CacheWarning

    opened = icl_bench.load_model("builtin:handwired")
    icl_bench.run([tiny], opened)
    hook = opened.model.register_forward_pre_hook(lambda part, given: None)
    with pytest.warns(CacheWarning, match="has a hook or a forward of test_cache_trust's own"):
        record = icl_bench.run([tiny], opened)
    assert not any(taken.cached for taken in record.measurements.values())
    hook.remove()
    record = icl_bench.run([tiny], opened)
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
