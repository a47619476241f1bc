"""Every evaluation of a training run is compared with its first one."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from planted import PREVIOUS, SUITE, original, scale

from icl_bench.integrations import TrainingGate


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def test_what_got_worse_since_the_start_is_counted_logged_and_stops_nothing(
    suite, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "icl_bench.training")
    module = copy.deepcopy(original().model)
    gate = TrainingGate(module, [suite], folder=tmp_path / "icl")
    first = gate.check(0)
    assert first.comparison is None and not any("since_start" in key for key in first.scalars())
    same = gate.check(1)
    told = {key: value for key, value in same.scalars().items() if "since_start" in key}
    assert set(told.values()) == {0.0} and len(told) == 3
    with torch.no_grad():
        scale(*PREVIOUS, 0.5)(module.model.layers)
    worse = gate.check(2)
    assert not worse.stop and worse.scalars()["icl/since_start/heads_died"] == 2
    assert worse.scalars()["icl/since_start/worse"] >= 2
    with torch.no_grad():
        scale(*PREVIOUS, 2.0)(module.model.layers)
    assert gate.check(3).scalars()["icl/since_start/worse"] == 0
    lines = [line for line in caplog.messages if "against step 0" in line]
    assert [line.split(":")[0] for line in lines] == [
        "icl_bench, step 2 against step 0",
        "icl_bench, step 3 against step 0",
    ]
    assert "REGRESSION" in lines[0] and "no regression" in lines[1]


def test_a_run_that_goes_on_compares_with_its_first_evaluation(suite, tmp_path):
    module = copy.deepcopy(original().model)
    gate = TrainingGate(module, [suite], folder=tmp_path / "icl")
    gate.check(0)
    with torch.no_grad():
        scale(*PREVIOUS, 0.5)(module.model.layers)
    gate.check(10)
    later = TrainingGate(module, [suite], folder=tmp_path / "icl")
    later.recall(10)
    assert later.check(20).scalars()["icl/since_start/heads_died"] == 2
