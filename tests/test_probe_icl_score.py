"""The ICL score: against plain cross-entropy, on models that use their context and on one that
cannot, and with heads off."""

from __future__ import annotations

import math
import random
import sys
import types
from pathlib import Path

import pytest
import torch

import icl_bench
from icl_bench.errors import NotMeasurable, SuiteError
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import induction
from icl_bench.probes.texts import icl_score
from icl_bench.probes.texts.icl_settings import Settings
from icl_bench.reference.words import SPECIALS, WORDS
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

CHOSEN = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)


def write_documents(folder, *, count=6, words=600, period=60):
    """Each document a block of random words again and again."""
    rng = random.Random(0)
    for number in range(count):
        block = rng.sample(WORDS[len(SPECIALS) :], period)
        text = " ".join((block * (words // period + 1))[:words])
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return str(folder)


def read(folder, number):
    return Path(folder, f"{number}.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def handwired():
    return icl_bench.load_model("builtin:handwired")


def measure(model, upstream=None, **settings):
    return icl_score.measure(model, Settings(**settings), Context(upstream=upstream))


def value(measurement, metric):
    return measurement.metrics[metric].value


def test_the_handwired_model_scores_minus_ln_v(handwired, folder):
    found = measure(handwired, text=folder)
    # The 50th word is of the first block and cannot be known; the 500th is copied.
    assert value(found, "icl_score") == pytest.approx(-math.log(len(WORDS)), abs=0.01)
    assert value(found, "icl_score_windowed") < -2.5
    assert found.metrics["icl_score"].n == 6
    [text] = found.tables["text"]
    assert (text["documents"], text["windows"], text["too_short"]) == (6, 6, 0)
    assert text["prefix"] == str(handwired.bos)
    assert found.settings["text"] == "text0"
    assert found.settings["text_sha256"] == text["sha256"]
    curve = {row["position"]: row["loss"] for row in found.tables["positions"]}
    assert set(curve) == set(range(511))
    assert curve[30] == pytest.approx(math.log(len(WORDS)), abs=0.01) and curve[200] < 0.01


def test_scores_and_curve_are_plain_cross_entropies(folder):
    model = icl_bench.load_model("builtin:induction-2l")
    found = measure(model, text=folder, window=128, windows_per_document=3, documents=4)
    sums = torch.zeros(4, 127, dtype=torch.double)
    for number in range(4):
        words = read(folder, number).split()
        for start in range(0, 381, 127):
            text = " ".join(words[start : start + 127])
            ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
            assert ids.shape == (1, 128)
            with torch.no_grad():
                logits = model.model(ids).logits[0]
            for place in range(127):
                loss = torch.nn.functional.cross_entropy(logits[place], ids[0, place + 1])
                sums[number, place] += float(loss) / 3
    for row, losses in zip(found.tables["positions"], sums.T):
        assert row["loss"] == pytest.approx(float(losses.mean()), abs=1e-4)
        assert row["loss_stderr"] == pytest.approx(float(losses.std() / 2), abs=1e-4)
    windowed = sums[:, 64:127].mean(1) - sums[:, 8:16].mean(1)
    metric = found.metrics["icl_score_windowed"]
    assert metric.samples == pytest.approx(windowed.tolist(), abs=1e-4)
    assert metric.n == 4 and metric.stderr == pytest.approx(float(windowed.std() / 2), abs=1e-4)
    assert value(found, "text_loss") == pytest.approx(float(sums.mean()), abs=1e-4)
    assert found.unmeasured["icl_score"] == "a window of 128 tokens has no 500th token"


def test_attention_to_the_previous_token_is_read_on_the_text(folder):
    """Against eager attention matrices of the same windows, averaged by document."""
    model = icl_bench.load_model("builtin:induction-2l")
    settings = {"text": folder, "window": 64, "windows_per_document": 2, "documents": 3}
    found = measure(model, previous_token=True, **settings)
    module = model.model
    before, module.config._attn_implementation = module.config._attn_implementation, "eager"
    scores = []
    for number in range(3):
        words, ids = read(folder, number).split(), []
        for start in (0, 63):
            text = " ".join(words[start : start + 63])
            ids.append(model.tokenizer(text, return_tensors="pt")["input_ids"])
        with torch.no_grad():
            matrices = module(torch.cat(ids), output_attentions=True).attentions
        # Query 1 looks at BOS, which is no text.
        diagonals = [matrix.diagonal(-1, 2, 3)[..., 1:].mean((0, 2)) for matrix in matrices]
        scores.append(torch.cat(diagonals))
    module.config._attn_implementation = before
    expected = torch.stack(scores).mean(0)
    rows = [row["previous_token_text"] for row in found.heads]
    assert rows == pytest.approx(expected.tolist(), abs=1e-5)
    best = value(found, "previous_token_text_max")
    assert best == pytest.approx(float(expected.max()), abs=0.05) and best > 0.8
    assert (
        "previous_token: false" in measure(model, **settings).unmeasured["previous_token_text_max"]
    )


def test_a_model_without_a_previous_token_head_scores_low_on_text(folder):
    lacking = icl_bench.load_model("builtin:control-1l")
    found = measure(lacking, text=folder, window=64, previous_token=True)
    assert value(found, "previous_token_text_max") < 0.3


def test_a_null_that_reaches_into_other_layers_has_their_means(folder):
    """One of 12 heads has 11 others in its layer: too few for 5%, so neighbours come in."""
    model = icl_bench.load_model("builtin:induction-2l")
    settings = {"text": folder, "window": 64, "documents": 3, "null_documents": 3}
    found = measure(model, heads=[[1, 0]], method="mean", null_draws=23, **settings)
    layers = {row["heads"].split(".")[0] for row in found.tables["null"]}
    assert layers == {"0", "1"} and "null_p_value_loss" in found.metrics


def test_a_model_of_one_layer_gains_nothing_from_its_context(tmp_path):
    """Every two documents share no block: only a model that copies does better late than early."""
    folder = write_documents(tmp_path, count=24, words=130, period=40)
    settings = {"text": folder, "window": 128}
    copying = measure(icl_bench.load_model("builtin:induction-2l"), **settings)
    control = measure(icl_bench.load_model("builtin:control-1l"), **settings)
    assert copying.metrics["icl_score_windowed"].ci_high < -2
    # One layer can raise every word that it has seen, which is worth less than a nat here.
    assert abs(value(control, "icl_score_windowed")) < 1.2
    ratio = value(control, "icl_score_windowed") / value(copying, "icl_score_windowed")
    assert ratio < 0.35


@pytest.mark.long
def test_without_the_induction_head_text_loses_its_whole_icl_score(handwired, folder):
    repeats = induction.measure(handwired, induction.Settings(sequences=4, period=20), Context())
    settings = {"text": folder, "method": "zero", "heads": CHOSEN}
    found = measure(handwired, repeats, null_draws=99, null_documents=3, **settings)
    clean = measure(handwired, text=folder)
    assert found.tables["ablated_heads"] == [{"layer": 1, "head": 0}]
    assert value(found, "icl_share_text") == pytest.approx(1, abs=1e-3)
    assert value(found, "text_loss_ablated") == pytest.approx(math.log(len(WORDS)), abs=1e-3)
    assert value(found, "icl_score_windowed_ablated") == pytest.approx(0, abs=1e-3)
    delta = value(found, "text_loss_ablated") - value(found, "text_loss")
    assert value(found, "text_delta") == pytest.approx(delta)
    for name, metric in clean.metrics.items():
        assert found.metrics[name] == metric
    assert len(found.tables["null"]) == 23
    assert value(found, "null_p_value") == pytest.approx(1 / 24)
    assert value(found, "null_p_value_loss") == pytest.approx(1 / 24)
    assert value(found, "null_max_share") == pytest.approx(0, abs=1e-4)
    assert value(found, "null_observed_share") == pytest.approx(1, abs=1e-3)
    assert value(found, "null_observed_delta") == pytest.approx(delta, abs=1e-3)
    assert found.tables["positions"][200]["loss_ablated"] > 5


def test_heads_off_by_their_mean_are_heads_off_in_a_plain_pass(tmp_path):
    """The mean is that of the documents that are not measured, here the last two."""
    from ablating import losses

    model = icl_bench.load_model("builtin:induction-2l")
    folder = write_documents(tmp_path, count=5, words=130, period=30)
    heads = [[1, 0], [1, 3], [0, 2]]
    found = measure(model, text=folder, window=128, documents=3, heads=heads, method="mean")
    rows = [model.tokenizer(" ".join(read(folder, i).split()[:127]))["input_ids"] for i in range(3)]
    ids = torch.tensor(rows)
    spare = [token for i in (3, 4) for token in model.tokenizer(read(folder, i))["input_ids"][1:]]
    held = torch.tensor([[model.bos, *spare[:127]], [model.bos, *spare[127:254]]])
    means = model.mean_outputs(held, 1, [0, 1])
    sets = [[(layer, head) for layer, head in heads]] * 3
    expected = losses(model, ids, sets, values=means).double()
    assert value(found, "text_loss_ablated") == pytest.approx(float(expected.mean()), abs=1e-4)
    samples = found.metrics["icl_score_windowed_ablated"].samples
    windowed = expected[:, 64:127].mean(1) - expected[:, 8:16].mean(1)
    assert samples == pytest.approx(windowed.tolist(), abs=1e-4)
    before = torch.tensor(found.metrics["icl_score_windowed"].samples)
    share = float((windowed - before).mean() / -before.mean())
    assert value(found, "icl_share_text") == pytest.approx(share, abs=1e-4)
    with pytest.raises(NotMeasurable, match="documents that are not measured"):
        measure(model, text=folder, window=128, documents=5, heads=heads, method="mean")


def test_no_head_to_switch_off_needs_no_measuring(handwired, folder):
    repeats = induction.measure(handwired, induction.Settings(sequences=4, period=20), Context())
    for row in repeats.heads:
        row["induction"] = 0.1
    found = measure(handwired, repeats, text=folder, heads=CHOSEN)
    assert found.reason == "no head has induction above 0.4: nothing was switched off"
    assert value(found, "icl_share_text") == 0 and value(found, "text_delta") == 0
    assert found.unmeasured["null_p_value"] == found.reason


def test_a_share_of_no_icl_score_is_not_measured(tmp_path):
    model = icl_bench.load_model("builtin:control-1l")
    rng = random.Random(1)
    for number in range(4):
        text = " ".join(rng.sample(WORDS[len(SPECIALS) :], 130))
        (tmp_path / f"{number}.txt").write_text(text)
    found = measure(
        model, text=str(tmp_path), window=128, heads=[[0, 0]], method="zero", documents=4
    )
    assert "is not told from 0" in found.unmeasured["icl_share_text"]


def test_what_cannot_be_measured_says_why(folder, handwired, tmp_path):
    small = icl_bench.load_model("builtin:induction-2l")
    with pytest.raises(NotMeasurable, match="does not fit into the model's context of 256"):
        measure(small, text=folder)
    with pytest.raises(NotMeasurable, match="does not know ..% of the words"):
        measure(handwired, documents=1)
    (tmp_path / "a.txt").write_text("the cat")
    with pytest.raises(NotMeasurable, match="no document of .* has 512 tokens"):
        measure(handwired, text=str(tmp_path))
    with pytest.raises(NotMeasurable, match="is not the text that the suite names"):
        measure(handwired, text=folder, text_sha256="0" * 64)
    bare = icl_bench.wrap(handwired.model)
    with pytest.raises(NotMeasurable, match="no text can be put to the model"):
        measure(bare, text=folder)


SUITE = """\
icl_suite: 1
name: mine
measure:
  text: {{probe: icl_score, {settings}}}
checks:
  - {{id: c, on: text, metric: icl_score_windowed, below: 0}}
"""


def load(folder, settings):
    path = folder / "mine.yaml"
    path.write_text(SUITE.format(settings=settings))
    return load_suite(path)


def digest_of(suite):
    return make_plan([suite]).measurements["mine/text"].digest


def test_the_text_itself_is_part_of_what_a_measurement_is(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("one")
    before = load(tmp_path, "text: corpus")
    assert before.measure["text"].settings.read().documents == (("a.txt", "one"),)
    assert digest_of(load(tmp_path, "text: corpus")) == digest_of(before)
    (tmp_path / "corpus" / "a.txt").write_text("two")
    assert digest_of(load(tmp_path, "text: corpus")) != digest_of(before)
    assert digest_of(load(tmp_path, "documents: 32")) == digest_of(load(tmp_path, "window: 512"))


def test_mistakes_about_the_text_are_found_when_the_suite_is_loaded(tmp_path):
    with pytest.raises(SuiteError, match=r"mine\.yaml:4:\d+: no such file or folder: .*gone"):
        load(tmp_path, "text: gone.txt")
    with pytest.raises(SuiteError, match="give 'text' or 'dataset', not both"):
        load(tmp_path, "text: a.txt, dataset: {name: x}")
    with pytest.raises(SuiteError, match="a SHA-256 has 64 digits"):
        load(tmp_path, "text_sha256: abc")


def test_a_data_set_that_nothing_pins_is_measured_anew(tmp_path, monkeypatch):
    texts = ["the cat sat . " * 60, "a dog ran . " * 60]
    module = types.ModuleType("datasets")
    module.load_dataset = lambda *a, **k: [{"text": text} for text in texts]  # type: ignore
    monkeypatch.setitem(sys.modules, "datasets", module)
    suite = load(tmp_path, "window: 128, dataset: {name: some/set}")
    first = icl_bench.run([suite.path], "builtin:induction-2l")
    second = icl_bench.run([suite.path], "builtin:induction-2l")
    assert first.measurements["mine/text"].status == "measured"
    assert not second.measurements["mine/text"].cached
    sha = first.measurements["mine/text"].settings["text_sha256"]
    load(tmp_path, f"window: 128, dataset: {{name: some/set}}, text_sha256: {sha}")
    icl_bench.run([suite.path], "builtin:induction-2l")
    again = icl_bench.run([suite.path], "builtin:induction-2l")
    assert again.measurements["mine/text"].cached


def test_a_real_model_reads_as_its_tokenizer_does(smollm2):
    """Plain cross-entropies on one window of 128, with what the tokenizer puts first.

    SmolLM2's puts nothing first, and BOS when it is read from GGUF by transformers 4.
    """
    found = measure(smollm2, documents=1, windows_per_document=1, window=128)
    [text] = found.tables["text"]
    first = smollm2.tokenizer("")["input_ids"]
    assert text["prefix"] == " ".join(map(str, first)) and len(first) <= 1
    assert found.metrics["icl_score_windowed"].stderr is None
    documents = Settings().read().documents
    name = found.tables["documents"][0]["document"]
    ids = smollm2.tokenizer(dict(documents)[name], return_tensors="pt")["input_ids"][:, :128]
    with torch.no_grad():
        logits = smollm2.model(ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="none")
    # Without a BOS the first token has no loss: column 0 is target 1.
    assert value(found, "text_loss") == pytest.approx(float(losses.mean()), abs=1e-3)
    late, early = (slice(low + len(first), high + len(first)) for low, high in ((63, 126), (7, 15)))
    windowed = losses[late].mean() - losses[early].mean()
    assert value(found, "icl_score_windowed") == pytest.approx(float(windowed), abs=1e-3)
    positions = [row["position"] for row in found.tables["positions"]]
    assert positions == list(range(1 - len(first), 128 - len(first)))
