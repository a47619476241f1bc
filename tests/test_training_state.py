"""Measuring leaves a model in training exactly as it was, and measures what its weights are."""

from __future__ import annotations

import random

import families
import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn
from trained import differences, state_of, write_suite

import icl_bench
from icl_bench.errors import ModelError, SettingsError, TrainingGateError, UnsupportedModel
from icl_bench.integrations import Reaches, TrainingGate, probe_training
from icl_bench.integrations.training_state import left_as_it_was
from icl_bench.models.module.unwrapping import find_module


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


def in_training(name, **settings):
    """A model with half of its gradients accumulated, a frozen weight and a part in eval mode."""
    model = families.build(name, **settings).train()
    next(model.parameters()).requires_grad_(False)
    next(iter(model.base_model.children())).eval()
    backward(model, seed=1)
    return model


def backward(model, seed):
    ids = torch.randint(
        3, families.VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(seed)
    )
    model(input_ids=ids, labels=ids).loss.backward()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "gemma2", "falcon", "gptj", "bloom"])
def test_nothing_is_changed(name, suite):
    model = in_training(name)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = state_of(model)
    gate = TrainingGate(model, [suite])
    gate.check(1)
    assert differences(before, state_of(model)) == []
    gate.check(2)
    assert differences(before, state_of(model)) == []


def test_the_test_can_fail():
    """Each kind of change is seen."""
    model = in_training("gpt2")
    before = state_of(model)
    attention = model.transformer.h[1].attn
    attention.training = False
    attention.extra = 1
    model.config.use_cache = not model.config.use_cache
    model.lm_head.register_forward_hook(lambda *_: None)
    model.transformer.h[0].mlp.c_fc.bias.grad.add_(1)
    torch.rand(1)
    found = " ".join(differences(before, state_of(model)))
    for name in ("h.1.attn.training", "h.1.attn.extra", "config ", "lm_head._forward_hooks",
                 "gradient transformer.h.0.mlp.c_fc.bias", "torch"):  # fmt: skip
        assert name in found


def test_not_even_when_the_measurement_breaks(suite):
    model = in_training("llama")
    gate = TrainingGate(model, [suite])

    def interrupted(*_):
        raise KeyboardInterrupt

    model.model.layers[1].mlp.forward = interrupted
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        gate.check(1)
    assert differences(before, state_of(model)) == []


def test_random_draws_of_the_model_are_put_back():
    model = families.build("llama")
    before = state_of(model)
    with left_as_it_was(model):
        random.random(), np.random.rand(), torch.rand(1)
    assert differences(before, state_of(model)) == []


def test_rotary_frequencies_that_follow_the_length(suite):
    """Dynamic scaling keeps the frequencies of the longest sequence that was read."""
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    if tf.__version__.startswith("4."):
        model = families.build("llama", rope_scaling=scaling)
    else:
        model = families.build("llama", rope_parameters={**scaling, "rope_theta": 1e4})
    rotary = model.model.rotary_emb
    model(torch.arange(3, 93).repeat(2)[None, :150])  # the model was made for 128
    assert rotary.max_seq_len_cached == 150
    before = state_of(model)
    with left_as_it_was(model):
        model(torch.arange(3, 20)[None])
        assert rotary.max_seq_len_cached != 150
    assert rotary.max_seq_len_cached == 150
    assert differences(before, state_of(model)) == []


def test_a_buffer_that_is_written_into_is_put_back_or_told_of(monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

    model = families.build("gpt2")
    model.counting = Counting()
    with left_as_it_was(model):
        model.counting.seen += 1
    assert float(model.counting.seen.sum()) == 0
    monkeypatch.setattr("icl_bench.integrations.training_state._SMALL", 3)
    with (
        pytest.raises(ModelError, match="wrote into its buffer Counting.seen"),
        left_as_it_was(model),
    ):
        model.counting.seen += 1


def switch_checkpointing_on(model):
    """By its name in transformers 5.24, or the one before."""
    old = "gradient_checkpointing_enable"
    new = "activation_checkpointing_enable"
    getattr(model, new if hasattr(model, new) else old)({"use_reentrant": False})


def train_by_hand(suite, measuring, **settings):
    """Losses and weights of a short training with dropout and accumulated gradients."""
    torch.manual_seed(0)
    model = families.build("gpt2", resid_pdrop=0.3, attn_pdrop=0.3, **settings).train()
    if settings.pop("checkpointing", False):
        switch_checkpointing_on(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    gate = TrainingGate(model, [suite]) if measuring else None
    losses = []
    for step in range(8):
        ids = torch.randint(3, families.VOCABULARY, (4, 24))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(float(loss.detach()))
        if gate:  # also between two halves of a gradient
            gate.check(step)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    return losses, [p.detach().clone() for p in model.parameters()]


def test_a_training_is_bit_for_bit_the_same(suite):
    losses, weights = train_by_hand(suite, False)
    measured_losses, measured_weights = train_by_hand(suite, True)
    assert losses == measured_losses
    assert all(torch.equal(one, other) for one, other in zip(weights, measured_weights))


def test_with_gradient_checkpointing_and_under_autocast(suite):
    model = in_training("llama")
    switch_checkpointing_on(model)
    model.enable_input_require_grads()
    expected = values(TrainingGate(families.build("llama"), [suite]).check(0).record)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = state_of(model)
        gate = TrainingGate(model, [suite])
        found = values(gate.check(0).record)
        assert differences(before, state_of(model)) == []
    assert found == expected  # the weights are float32, and were measured so


def values(record):
    return {
        f"{key}/{name}": metric.value
        for key, taken in record.measurements.items()
        for name, metric in taken.metrics.items()
    }


def test_what_is_measured_is_what_the_saved_weights_give(suite, tmp_path):
    """A model in training mode with dropout, after some steps, beside its own checkpoint."""
    model = families.build("gpt2", resid_pdrop=0.3, attn_pdrop=0.3).train()
    gate = TrainingGate(model, [suite])
    first = gate.check(0).record
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(3):
        backward(model, seed=step)
        optimizer.step()
    found = gate.check(3).record
    model.save_pretrained(tmp_path / "checkpoint-3")
    expected = icl_bench.run([suite], str(tmp_path / "checkpoint-3"), cache=False)
    assert values(found) == pytest.approx(values(expected), abs=1e-5)
    assert values(found) != pytest.approx(values(first), abs=1e-2)
    assert found.model.fingerprint == expected.model.fingerprint
    assert (found.model.spec, found.model.slug) == ("training@3", "training-3")


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_models(suite, in_place):
    model = families.build("llama").train()
    expected = values(TrainingGate(families.build("llama"), [suite]).check(0).record)
    compiled = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    before = state_of(model)
    assert values(TrainingGate(compiled, [suite]).check(0).record) == expected
    assert differences(before, state_of(model)) == []


@pytest.mark.parametrize("times", [1, 2])
def test_accelerates_mixed_precision(suite, times, request):
    """accelerate wraps `forward` in autocast; the float32 weights are measured all the same."""
    accelerate = pytest.importorskip("accelerate")
    expected = values(TrainingGate(families.build("llama"), [suite]).check(0).record)
    # One process has one state, and a Trainer of another test may have made it.
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    request.addfinalizer(
        lambda: accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    )
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    model = families.build("llama").train()
    for _ in range(times):  # each Trainer that gets the model does it
        model = accelerator.prepare_model(model)
    assert "_original_forward" in vars(model)
    before = state_of(model)
    assert values(TrainingGate(model, [suite]).check(0).record) == expected
    assert differences(before, state_of(model)) == []


def test_bfloat16_weights(suite):
    model = families.build("llama").to(torch.bfloat16).train()
    before = state_of(model)
    record = TrainingGate(model, [suite]).check(0).record
    assert record.model.dtype == "bfloat16"
    assert record.measurements["small/repeats"].status == "measured"
    assert differences(before, state_of(model)) == []


@pytest.mark.parametrize("way", ["older", "newer", "untouched"])
def test_reduced_precision_of_products_is_off_and_put_back(way):
    if way == "older":
        torch.set_float32_matmul_precision("medium")
    elif way == "newer":
        if not hasattr(torch.backends, "fp32_precision"):
            pytest.skip("this torch knows the older way only")
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    before = products()
    try:
        with left_as_it_was(families.build("llama")):
            assert set(products()) <= {"ieee", "highest"}
        assert products() == before
    finally:
        if way == "newer":
            torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


def products():
    """How exact torch's matrix products are, in each way that can be asked."""
    if hasattr(torch.backends, "fp32_precision"):
        places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        return [place.fp32_precision for place in places]
    return [torch.get_float32_matmul_precision()]


def test_flash_attention_gives_way_where_weights_are_in_full_precision(suite):
    """FlashAttention takes half precision only: under autocast, which is off while measuring."""

    def half_only(module, query, key, value, attention_mask, **kwargs):
        raise RuntimeError("FlashAttention only supports fp16 and bf16")

    tf.AttentionInterface.register("flash_of_the_test", half_only)
    expected = values(TrainingGate(families.build("llama"), [suite]).check(0).record)
    model = families.build("llama").train()
    model.config._attn_implementation_internal = "flash_of_the_test"
    before = state_of(model)
    assert values(TrainingGate(model, [suite]).check(0).record) == expected
    assert differences(before, state_of(model)) == []


def test_a_model_that_diverged_is_an_error_and_stops_nothing(suite):
    model = families.build("llama").train()
    gate = TrainingGate(model, [suite], [Reaches("induction_max", above=0.4, by_step=1)])
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.fill_(float("nan"))
    outcome = gate.check(1)
    assert outcome.record.gates[0].verdict == "error" and not outcome.stop
    assert outcome.record.measurements["small/repeats"].status == "error"
    assert "icl/small/repeats/induction_max" not in outcome.scalars()


class TestUnwrapping:
    def test_data_parallel_and_compiled(self):
        model = families.build("llama")
        assert find_module(nn.DataParallel(model)) is model
        assert find_module(torch.compile(nn.DataParallel(model))) is model

    def test_distributed_data_parallel(self, tmp_path):
        from torch import distributed as dist

        model = families.build("llama")
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            assert find_module(nn.parallel.DistributedDataParallel(model)) is model
        finally:
            dist.destroy_process_group()

    def test_sharded_models_are_refused(self):
        class FSDPModule:
            pass

        class Sharded(tf.LlamaForCausalLM, FSDPModule):
            pass

        model = families.build("llama")
        model.__class__ = Sharded
        with pytest.raises(UnsupportedModel, match="split over processes"):
            find_module(model)

    def test_partitioned_weights_are_refused(self):
        model = families.build("llama")
        weight = model.lm_head.weight
        weight.data, weight.ds_id = torch.empty(0), 1
        with pytest.raises(UnsupportedModel, match=r"ZeRO 3, lm_head.weight"):
            find_module(model)

    def test_what_is_no_transformers_model(self):
        with pytest.raises(ModelError, match="expected a transformers model.*not Linear"):
            find_module(nn.Linear(2, 2))

    def test_adapters_in_the_model_are_measured(self, suite):
        peft = pytest.importorskip("peft")
        model = families.build("llama")
        plain = values(probe_training(model, [suite], step=0))
        tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["k_proj"], r=2))
        assert values(probe_training(tuned, [suite], step=0)) == pytest.approx(plain, abs=1e-6)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.3)
        tuned.train()
        before = state_of(tuned)
        found = values(probe_training(tuned, [suite], step=1))
        assert differences(before, state_of(tuned)) == []
        merged = tuned.merge_and_unload()
        assert found == pytest.approx(values(probe_training(merged, [suite], step=1)), abs=1e-4)
        assert found != pytest.approx(plain, abs=1e-3)

    def test_adapters_in_the_prompt_are_refused(self):
        peft = pytest.importorskip("peft")
        settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        tuned = peft.get_peft_model(families.build("llama"), settings)
        with pytest.raises(UnsupportedModel, match="puts tokens of its own before each prompt"):
            find_module(tuned)


class TestTrainingGate:
    """The model with the circuit passes; the one that lacks it does not."""

    gates = (Reaches("induction_max", above=0.4, by_step=10),)

    def test_a_model_with_the_circuit_goes_on(self, suite, tmp_path):
        model = icl_bench.load_model("builtin:induction-2l").model
        gate = TrainingGate(model, [suite], self.gates, folder=tmp_path, every=4, name="run")
        outcome = gate.check(10)
        assert not outcome.stop and outcome.failures == ()
        assert outcome.path == tmp_path / "results-step10.json"
        kept = icl_bench.read_record(outcome.path)
        assert kept.step == 10 and kept.gates[0].verdict == "pass"
        assert kept.model.spec == "run@10"
        assert [step for step in range(12) if gate.is_due(step)] == [4, 8, 10]

    def test_a_model_without_it_does_not(self, suite, tmp_path):
        model = icl_bench.load_model("builtin:control-1l").model
        gate = TrainingGate(model, [suite], self.gates, folder=tmp_path)
        assert gate.check(9).failures == ()
        with pytest.raises(
            TrainingGateError, match="induction_max > 0.4 by step 10: at step 10: re"
        ):
            gate.check(10)
        assert icl_bench.read_record(tmp_path / "results-step10.json").gates[0].verdict == "fail"

    @pytest.mark.parametrize(("on_failure", "stop"), [("stop", True), ("warn", False)])
    def test_it_can_say_so_without_an_error(self, suite, on_failure, stop):
        model = icl_bench.load_model("builtin:control-1l").model
        gate = TrainingGate(model, [suite], self.gates, on_failure=on_failure)
        outcome = gate.check(10)
        assert outcome.stop is stop and len(outcome.failures) == 1

    def test_what_counts_as_failed_can_be_chosen(self, suite):
        model = icl_bench.load_model("builtin:control-1l").model
        gate = TrainingGate(model, [suite], self.gates, on_failure="stop", stop_on=["skipped"])
        assert gate.check(9).stop

    def test_numbers_for_loggers(self, suite):
        model = icl_bench.load_model("builtin:induction-2l").model
        outcome = TrainingGate(model, [suite], self.gates).check(10)
        scalars = outcome.scalars()
        metric = outcome.record.measurements["small/repeats"].metrics["induction_max"]
        assert scalars["icl/small/repeats/induction_max"] == metric.value
        assert scalars["icl/small/checks_passed"] == 1
        assert scalars["icl/gates_failed"] == scalars["icl/small/checks_inconclusive"] == 0
        assert set(map(type, scalars.values())) == {float}

    def test_a_run_that_goes_on_looks_back(self, suite, tmp_path):
        model = icl_bench.load_model("builtin:induction-2l").model
        first = TrainingGate(model, [suite], folder=tmp_path)
        for step in (1, 2, 3):
            first.check(step)
        (tmp_path / "results-step1.json").write_text("broken")
        second = TrainingGate(model, [suite], folder=tmp_path)
        second.recall(2)
        assert [one.step for one in second.history] == [2]
        second.recall(3, steps=[3])
        assert [one.step for one in second.history] == [3]
        with pytest.raises(SettingsError, match="step 3 was evaluated"):
            second.check(3)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"every": 0}, "'every' has to be 1 or more"),
            ({"on_failure": "rase"}, "did you mean 'raise'"),
            ({"stop_on": "fail"}, "must be a list"),
            ({"stop_on": ["fails"]}, "did you mean 'fail'"),
        ],
    )
    def test_wrong_arguments(self, suite, wrong, message):
        with pytest.raises(SettingsError, match=message):
            TrainingGate(None, [suite], **wrong)
