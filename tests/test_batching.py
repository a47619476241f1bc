"""Batches are bounded, halve when memory runs out, and keep what is done."""

from __future__ import annotations

import families
import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError
from icl_bench.models import clean_run
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base
from icl_bench.models.module import batching
from icl_bench.models.module.batching import BatchLimit, run_in_batches, run_within_memory
from icl_bench.models.module.memory import ran_out_of_memory

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"


def limit(rows=None):
    return BatchLimit("cpu", rows, 4 * 1000)


def test_batches_are_of_about_one_size():
    seen = []
    run_in_batches((36, 100), limit(), lambda start, stop: seen.append((start, stop)))
    assert seen == [(0, 18), (18, 36)]


def test_logits_bound_a_batch():
    assert limit().rows(100) == batching.TOKENS["cpu"] // 100
    assert limit().rows(100, targets=100_000) == 1


def test_a_batch_that_does_not_fit_is_run_again_in_halves_and_nothing_is_done_twice():
    done, tried = [], []

    def work(start, stop):
        tried.append(stop - start)
        if stop - start > 3:
            raise RuntimeError(NO_MEMORY)
        done.extend(range(start, stop))

    bound = limit(rows=10)
    run_in_batches((20, 100), bound, work)
    assert done == list(range(20))
    assert tried[:3] == [10, 5, 2] and max(tried[2:]) <= 3
    assert bound.fixed == 2


def test_one_row_that_does_not_fit_is_one_clear_error():
    def work(start, stop):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError, match="memory ran out on a single row of 100 tokens"):
        run_in_batches((4, 100), limit(), work)


def test_other_errors_are_not_taken_for_lack_of_memory():
    def work(start, stop):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_in_batches((4, 100), limit(), work)
    assert not ran_out_of_memory(ValueError(NO_MEMORY))
    assert ran_out_of_memory(MemoryError())


def test_scores_losses_and_ablations_survive_a_lack_of_memory(monkeypatch):
    model = icl_bench.wrap(families.build("llama"))
    tokens = icl_bench.repeated_tokens(model, sequences=6, period=8)
    targets = torch.arange(1, tokens.input_ids.shape[1])

    def measure():
        scores = icl_bench.head_scores(model, tokens)
        run = run_base(model, tokens.input_ids, targets)
        means = model.mean_outputs(tokens.input_ids, 1)
        sets = switch_off(model, run, [[(1, 0)], [(0, 2)]]).nll
        return scores, run.losses.nll, means, sets

    expected = measure()
    whole = model.runner.forward
    failed = []

    def forward(ids, *rest, **more):
        if len(ids) > 2:
            failed.append(len(ids))
            raise RuntimeError(NO_MEMORY)
        return whole(ids, *rest, **more)

    monkeypatch.setattr(model.runner, "forward", forward)
    scores, nll, means, sets = measure()
    # Found out once; from then on batches are small enough from the start.
    assert failed == [6, 3]
    assert (scores - expected[0]).abs().max().max() < 1e-5
    assert torch.allclose(nll, expected[1], atol=1e-5)
    assert all(torch.allclose(means[layer], expected[2][layer], atol=1e-5) for layer in means)
    assert torch.allclose(sets, expected[3], atol=1e-5)


@pytest.mark.parametrize("place", range(12))
def test_a_batch_that_fails_after_its_pass_counts_once(monkeypatch, place):
    model = icl_bench.wrap(families.build("llama"), batch_size=4)
    tokens = icl_bench.repeated_tokens(model, sequences=8, period=8)
    scores, means = icl_bench.head_scores(model, tokens), model.mean_outputs(tokens.input_ids, 1)
    copy, calls = torch.Tensor.cpu, []

    def cpu(tensor):
        calls.append(1)
        if len(calls) == place + 1:
            raise RuntimeError(NO_MEMORY)
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    for read in (
        lambda: (icl_bench.head_scores(model, tokens) - scores).abs().max().max(),
        lambda: max(
            (one - means[layer]).abs().max()
            for layer, one in model.mean_outputs(tokens.input_ids, 1).items()
        ),
    ):
        calls.clear()
        model.batch_size = 4
        assert read() < 1e-5
        assert len(calls) > place or place >= 6


def test_a_measurement_is_taken_again_in_smaller_batches_until_they_are_rows():
    class Limited:
        limit = limit()

    tried = []

    def work():
        tried.append(Limited.limit.rows(20))
        if tried[-1] > room:
            raise MemoryError
        return "done"

    room = 10
    assert run_within_memory(Limited, work) == "done"
    assert tried == [102, 25, 6]
    room = 0
    with pytest.raises(ModelError, match="memory ran out, with batches of one row too"):
        run_within_memory(Limited, work)
    Limited.limit = limit(rows=1)
    with pytest.raises(ModelError, match="memory ran out"):
        run_within_memory(Limited, work)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_residual_streams_stay_within_their_budget(monkeypatch, room):
    """With room for no layer, for one, or for three: the same losses."""

    model = icl_bench.wrap(families.build("llama"))
    tokens = icl_bench.repeated_tokens(model, sequences=4, period=8)
    targets = torch.arange(1, tokens.input_ids.shape[1])
    sets = [[(2, 1)], [(1, 0), (2, 2)], [(0, 3)], [(2, 0)]]
    expected = switch_off(model, run_base(model, tokens.input_ids, targets), sets).nll
    one = tokens.input_ids.numel() * 64 * 4
    monkeypatch.setattr(clean_run, "STREAM_BYTES", room * one if room else one // 5)
    run = run_base(model, tokens.input_ids, targets)
    found = switch_off(model, run, sets).nll
    assert len(run.streams) <= room
    assert torch.allclose(found, expected, atol=1e-5)
