"""Which place of B explains what it lost: every layer restored from A, then heads of the best.

Layers, the embedding and the unembedding are all tried; of the layers that bring most back the
attention, the MLP and every head, too. The intervals hold for all places together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icl_bench.comparing.rounding import COARSE, FINE
from icl_bench.diffing.grafting import Answers, Inputs, Texts, answer, keep_inputs, restore
from icl_bench.diffing.places import Place, Restored
from icl_bench.errors import NotMeasurable
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.positions import cut_windows
from icl_bench.measures.statistics import mean_metric, share_metric
from icl_bench.measures.tokens import draw_repeated
from icl_bench.probes.design.context import Task, silent_task
from icl_bench.probes.prompts.corpus import choose_documents, read_reference

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.records.parts import Metric

SEQUENCES = 16
LAYERS = 3
"""Layers whose heads and MLPs are restored one by one."""
LEAST = 0.02
"""Share that a layer brings back at least for its heads to be looked at."""
WINDOWS, WINDOW = 16, 128
"""Of text: windows, and tokens of each, as suite `text-loss` has them."""


@dataclass(frozen=True)
class Drawing:
    """How the sequences are drawn; as the suites' own, of which they are the first.

    Args:
        period: tokens in a block.
        seed: seed of the draws.
        bos: whether BOS is put first: `auto`, `always`, `never`.
        token_pool: which ids they hold.
    """

    period: int = 25
    seed: int = 0
    bos: str = "auto"
    token_pool: str = "uniform"

    @classmethod
    def of(cls, settings: Iterable[dict[str, Any]]) -> Drawing:
        """Return what the first of some measurements says of its sequences.

        Args:
            settings: of each measurement.
        """
        found = next((one for one in settings if isinstance(one.get("period"), int)), {})
        names = cls.__dataclass_fields__
        return cls(**{name: value for name, value in found.items() if name in names})


@dataclass
class Explanation:
    """What restoring single places of B from A brings back.

    Args:
        of: what was lost: `copying` or `text`; None where nothing was restored.
        lost: nats that B's loss is higher.
        restored: every place that was tried, best first.
        remarks: what was left out, and why.
    """

    of: str | None = None
    lost: Metric | None = None
    restored: list[Restored] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """Two models of which one can be in memory.

    Args:
        before: opens A.
        after: opens B.
        let_go: closes whatever is open.
        task: opens a progress line.
    """

    before: Callable[[], Model]
    after: Callable[[], Model]
    let_go: Callable[[], None]
    task: Task = silent_task


def explain(pair: Pair, drawing: Drawing, readings: Iterable[str]) -> Explanation:
    """Restore places of B from A, and see what each brings back of what was lost.

    Args:
        pair: the two models.
        drawing: how repeated sequences are drawn.
        readings: what may have been lost, `copying` or `text`; the first that is lost counts.
    """
    result = Explanation()
    for of in readings:
        try:
            found = _explain(pair, drawing, of, result)
        except NotMeasurable as error:
            result.remarks.append(f"{of}: nothing was restored: {error}")
            continue
        finally:
            pair.let_go()
        if found:
            break
    return result


def _explain(pair: Pair, drawing: Drawing, of: str, result: Explanation) -> bool:
    """Add what explains one loss; return whether that was lost at all."""
    model = pair.after()
    shapes, dtype = _describe(model), model.dtype
    texts = _draw(model, drawing, of)
    inputs = keep_inputs(model, texts)
    vocabulary, name = model.vocabulary, model.slug
    del model
    pair.let_go()
    model = pair.before()
    if _describe(model) != shapes:
        raise NotMeasurable(
            f"{model.slug} and {name} have other shapes: only behaviour is compared"
        )
    if model.vocabulary != vocabulary or not torch.equal(
        _draw(model, drawing, of).input_ids, texts.input_ids
    ):
        raise NotMeasurable("the models have other vocabularies: only behaviour is compared")
    answers = answer(model, inputs)
    del model
    pair.let_go()
    whole = _per_row(inputs.losses) - _per_row(answers.losses)
    lost = mean_metric(whole)
    if lost.ci_low is None or lost.ci_low <= 0:
        result.remarks.append(f"{of}: B's loss is not surely higher, so nothing was restored")
        return False
    result.of, result.lost = of, lost
    shares = _sweep(pair.after(), inputs, answers, pair.task, result.remarks)
    confidence = 1 - 0.05 / len(shares)
    rounding = FINE if dtype in ("float32", "float64") else COARSE
    for place, nll in shares.items():
        back = _per_row(inputs.losses) - nll
        share = share_metric(back, whole, confidence=confidence)
        differs = float(np.abs(back).max()) > rounding
        ends = share.ci_low, share.ci_high
        result.restored.append(Restored(place, share.value, *ends, len(whole), differs))
    result.restored.sort(key=lambda one: -one.share)
    return True


def _describe(model: Model) -> tuple[Any, ...]:
    """What two models must share for a place of one to take the place of the other's."""
    width = model.embedding.shape[1]
    return type(model.model).__name__, model.layers, width, tuple(model.shapes.items())


def _draw(model: Model, drawing: Drawing, of: str) -> Texts:
    if of == "text":
        return _cut_text(model)
    tokens = draw_repeated(
        model.pool(drawing.token_pool),
        sequences=SEQUENCES,
        period=drawing.period,
        seed=drawing.seed,
        bos=model.choose_bos(drawing.bos),
        stream="test",
    )
    return Texts(tokens.input_ids, repeated_targets(tokens))


def _cut_text(model: Model) -> Texts:
    if model.tokenizer is None:
        raise NotMeasurable(f"no text can be put to the model: {model.tokenizer_note}")
    chosen = choose_documents(model, read_reference().documents, WINDOW, WINDOWS, 0)
    documents = [ids for _, ids in chosen.documents]
    windows = cut_windows(documents, chosen.prefix, WINDOW, 1)
    return Texts(windows.input_ids, torch.arange(max(1, windows.prefix), WINDOW))


def _per_row(nll: torch.Tensor) -> np.ndarray:
    return np.asarray(nll.double().numpy().mean(axis=1))


def _sweep(
    model: Model, inputs: Inputs, answers: Answers, task: Task, remarks: list[str]
) -> dict[Place, np.ndarray]:
    """Losses per sequence with each place restored: all layers, then inside of the best."""
    layers = [Place("layer", index) for index in range(model.layers)]
    found: dict[Place, np.ndarray] = {}
    lost = float(inputs.losses.double().mean() - answers.losses.double().mean())

    def bring_back(place: Place) -> float:
        return (float(inputs.losses.double().mean()) - float(found[place].mean())) / lost

    def take(places: list[Place], told: str) -> None:
        with task(told, len(places)) as advance:
            for place in places:
                try:
                    found[place] = _per_row(restore(model, inputs, answers, place))
                except NotMeasurable as error:
                    remarks.append(str(error))
                advance(1)

    take([Place("embedding"), *layers, Place("unembedding")], "layers restored from A")
    best = sorted((place for place in layers if place in found), key=lambda p: -bring_back(p))
    inside: list[Place] = []
    for place in [one for one in best if bring_back(one) >= LEAST][:LAYERS]:
        index = place.layer or 0
        lacking = {kind for kind, layer in answers.problems if layer == index}
        if "mlp" not in lacking:
            inside += [Place("mlp", index)]
            inside += [] if "attention" in lacking else [Place("attention", index)]
        if "head" not in lacking:
            inside += [Place("head", index, head) for head in range(model.heads[index])]
    take(inside, "heads and MLPs restored from A")
    return found
