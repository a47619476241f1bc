"""Memory that runs out in the middle of a run: smaller batches, or one error and the rest kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError
from icl_bench.models.attention import kernels
from icl_bench.models.attention.paths import Runner
from icl_bench.models.module.memory import find_lack, ran_out_of_memory
from icl_bench.models.opening import opening, streaming
from icl_bench.records.record import RunRecord

SUITE = """\
icl_suite: 1
name: small
defaults: {sequences: 8, period: 8}
measure:
  repeats: {probe: induction, control: false}
  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 2}
  long: {probe: induction, control: false, period: 24}
checks:
  - {id: low, on: repeats, metric: induction_max, above: -1}
  - {id: off, on: off, metric: gain, above: -99}
  - {id: long, on: long, metric: induction_max, above: -1}
"""
LACKS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    "python": MemoryError(),
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def limit_passes(monkeypatch: pytest.MonkeyPatch, lack: BaseException, allow: Any) -> list[int]:
    """Let passes fail for lack of memory that `allow`, given rows and length, does not."""
    forward = Runner.forward
    failed: list[int] = []

    def limited(runner: Runner, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if not allow(*ids.shape):
            failed.append(len(ids))
            raise lack
        return forward(runner, ids, *rest, **more)

    monkeypatch.setattr(Runner, "forward", limited)
    return failed


@pytest.mark.parametrize("kind", LACKS)
def test_smaller_batches_give_the_same_numbers(
    suite: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def measure() -> RunRecord:
        return icl_bench.run([suite], "builtin:handwired", cache=False)

    expected = measure()
    failed = limit_passes(monkeypatch, LACKS[kind], lambda rows, length: rows <= 2)
    found = measure()
    assert failed
    assert found.status == "complete"
    for key, taken in expected.measurements.items():
        assert taken.status == found.measurements[key].status == "measured"
        for name, metric in taken.metrics.items():
            assert found.measurements[key].metrics[name].value == pytest.approx(
                metric.value, abs=1e-4
            )


@pytest.mark.parametrize("kind", LACKS)
def test_a_kernel_that_finds_no_memory_is_not_taken_for_one_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = icl_bench.load_model("builtin:handwired")
    tokens = icl_bench.repeated_tokens(model, sequences=8, period=8)
    expected = icl_bench.head_scores(model, tokens)
    kernel = kernels.KERNELS["cpu"]

    def limited(q: torch.Tensor, *rest: Any) -> Any:
        if len(q) > 2:
            raise LACKS[kind]
        return kernel(q, *rest)

    monkeypatch.setitem(kernels.KERNELS, "cpu", limited)
    assert (icl_bench.head_scores(model, tokens) - expected).abs().max().max() < 1e-5


@pytest.mark.parametrize("kind", LACKS)
def test_a_row_that_does_not_fit_costs_its_own_measurement(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    limit_passes(monkeypatch, LACKS[kind], lambda rows, length: length < 40)
    record = icl_bench.run([suite], "builtin:handwired", cache=False, report_dir=tmp_path)
    assert record == icl_bench.read_record(tmp_path / "builtin-handwired" / "results.json")
    verdicts = {check.id: check.verdict for check in record.checks}
    assert verdicts == {"low": "pass", "off": "pass", "long": "error"}
    reason = str(record.measurements["small/long"].reason)
    assert "memory ran out on a single row of" in reason and "smaller dtype" in reason


def test_a_series_keeps_the_checkpoints_that_could_be_opened(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        checkpoints.write_llama(tmp_path / "runs" / f"step{step}", seed=step)
    pour = streaming._pour

    def limited(*given: Any) -> Any:
        if "step2" in str(given[1].__dict__):
            raise LACKS["cuda"]
        return pour(*given)

    monkeypatch.setattr(streaming, "_pour", limited)
    record = icl_bench.run([suite], f"{tmp_path}/runs@*", cache=False)
    taken = record.measurements["small/repeats"]
    assert [row["step"] for row in taken.tables["steps"]] == [1, 3]
    [broken] = taken.tables["broken_steps"]
    assert broken["step"] == 2
    for part in ("memory ran out while it was opened", "20.00 GiB", "on disk", "bfloat16"):
        assert part in broken["reason"]


@pytest.mark.parametrize("kind", LACKS)
def test_opening_says_what_how_much_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkpoints.write_llama(tmp_path / "model")

    def fail(*_: Any, **__: Any) -> None:
        raise LACKS[kind]

    monkeypatch.setattr(opening, "load", fail)
    with pytest.raises(ModelError) as caught:
        icl_bench.load_model(str(tmp_path / "model"))
    told = str(caught.value)
    assert told.startswith(f"model '{tmp_path}/model': memory ran out while it was opened (")
    assert " kB on disk; use a smaller dtype" in told


def test_what_tells_a_lack_of_memory() -> None:
    outer = ValueError("it cannot be loaded")
    outer.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert find_lack(outer) is outer.__cause__
    assert find_lack(ValueError("out of memory")) is None
    assert ran_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert ran_out_of_memory(RuntimeError("std::bad_alloc"))


SCRIPT = """\
import resource, sys
import families, torch
import icl_bench

def limit(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    bytes = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (bytes, bytes))

if sys.argv[1] == "measure":
    model = icl_bench.wrap(families.build("llama", vocab_size=50_000))
    ids = icl_bench.repeated_tokens(model, sequences=32, period=16).input_ids
    expected = icl_bench.token_losses(model, ids)
    before = model.limit.rows(33)
    limit(100 * 2**20)
    found = icl_bench.token_losses(model, ids)
    assert model.limit.rows(33) < before, before
    assert (found - expected).abs().max() < 1e-4
else:
    import transformers
    limit(60 * 2**20)
    try:
        icl_bench.load_model(sys.argv[2])
    except icl_bench.errors.ModelError as error:
        print(error)
    else:
        raise SystemExit("it was opened")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
@pytest.mark.parametrize("act", ["measure", "open"])
def test_a_limit_that_is_really_hit(tmp_path: Path, act: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    if act == "open":
        checkpoints.write_llama(tmp_path / "model", vocab_size=1_000_000)
    known = [str(Path(__file__).parent), str(Path(icl_bench.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "script.py", act, "model"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(known), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if act == "open":
        assert done.stdout.startswith("model 'model': memory ran out while it was opened (")
        assert len(done.stdout.splitlines()) == 1 and "MB on disk" in done.stdout
