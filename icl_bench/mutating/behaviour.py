"""What an edit really changed: the gain on varied repeats, and the loss on text.

Both are measured on sequences that no suite uses, before and after, and compared sequence by
sequence. A forward pass runs from the lowest layer that the edit may change, on the residual
streams of the unedited model.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from icl_bench.comparing.defaults import SHARE
from icl_bench.errors import IclError, MeasurementError
from icl_bench.measures.positions import cut_windows
from icl_bench.measures.statistics import CONFIDENCE, mean_metric
from icl_bench.measures.varied import VariedTokens, draw_varied
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import resume
from icl_bench.models.clean_run import BaseRun, check_resumes, run_base
from icl_bench.models.module.batching import run_in_batches
from icl_bench.models.module.losses import score_targets
from icl_bench.probes.prompts.corpus import choose_documents, read_reference

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.mutating.planting import Site

LOOKS = (0.25, 1.0)
"""Shares of the sequences at the looks."""
State = Literal["changed", "neutral", "unclear"]
SEQUENCES = 48
DOCUMENTS, WINDOW = 16, 128
"""Texts, and tokens of each."""
UNKNOWN = 0.01
"""Share of unknown tokens from which a text is not one that the model can read."""
TEXT_DELTA = 0.02
"""Change of the loss on text that is none, nats."""


@dataclass(frozen=True)
class Difference:
    """A change of one quantity, paired.

    Args:
        value: after minus before, nats; None where it is no finite number after the edit.
        low: lower end of its interval, which holds at all looks with 95%.
        high: upper end.
        delta: what counts as no change, either way.
    """

    value: float | None
    low: float | None
    high: float | None
    delta: float

    @property
    def state(self) -> State:
        """Whether the interval lies wholly beyond delta, wholly inside, or neither."""
        if self.value is None:
            return "changed"
        assert self.low is not None and self.high is not None
        if self.low > self.delta or self.high < -self.delta:
            return "changed"
        return "neutral" if -self.delta < self.low <= self.high < self.delta else "unclear"


@dataclass(frozen=True)
class Behaviour:
    """The unedited model's behaviour, with which edits are compared.

    Args:
        model: the model.
        varied: blocks that come again at varied distance.
        repeats: the run on them.
        text: the run on text, a row for each document; None where there is none.
        no_text: why there is none.
    """

    model: Model
    varied: VariedTokens
    repeats: BaseRun
    text: BaseRun | None
    no_text: str | None

    def compare(self, site: Site) -> dict[str, Difference]:
        """Measure the edited model, and return `gain` and perhaps `text`: after - before.

        A quarter of the sequences comes first. The rest follows only where these do not decide,
        and text only where the gain does not say that behaviour changed. The intervals hold at
        both looks together (Bonferroni).

        Args:
            site: the model with the edit in it.
        """
        before = self._gain(self.repeats.losses.nll)
        delta = SHARE * max(1.0, abs(float(before.mean())))
        gain = _Growing(self.model, self.repeats, site.lowest)
        text = None if self.text is None else _Growing(self.model, self.text, site.lowest)
        found: dict[str, Difference] = {}
        for share in LOOKS:
            nll = gain.grow(share)
            after = None if nll is None else self._gain(nll)
            found = {"gain": _difference(before, after, delta)}
            if text is not None and found["gain"].state != "changed":
                nll = text.grow(share)
                after = None if nll is None else _average(nll)
                found["text"] = _difference(_average(text.base.losses.nll), after, TEXT_DELTA)
            if state_of(found.values()) != "unclear":
                break
        return found

    def _gain(self, nll: Tensor) -> np.ndarray:
        first, second = self.varied.rows(0, len(nll)).split(nll, self.repeats.targets)
        return np.asarray(first - second)


def _average(nll: Tensor) -> np.ndarray:
    return np.asarray(nll.double().numpy().mean(axis=1))


def state_of(differences: Collection[Difference]) -> State:
    """Return whether behaviour changed: by one difference at least, by none, or unclear.

    Args:
        differences: of gain and text.
    """
    states = {one.state for one in differences}
    if "changed" in states:
        return "changed"
    return "unclear" if "unclear" in states else "neutral"


def watch(model: Model, period: int, seed: int, layers: Collection[int]) -> Behaviour:
    """Measure the unedited model.

    Args:
        model: the model.
        period: tokens in a block.
        seed: of the sequences, which are not those of a suite with this seed.
        layers: lowest layers of the edits to come.

    Raises:
        MeasurementError: the sequences do not fit the model.
    """
    varied = draw_varied(
        model.pool("uniform"),
        sequences=SEQUENCES,
        period=period,
        seed=seed,
        bos=model.choose_bos("auto"),
        stream="mutation",
        reach=model.reach,
    )
    check_resumes(model, layers)
    wanted = [layer for layer in layers if model.resumes.get(layer)]
    repeats = run_base(model, varied.input_ids, varied.targets, wanted)
    rows, why = _read_text(model)
    text = None
    if rows is not None:
        text = run_base(model, rows, torch.arange(1, rows.shape[1]), wanted)
    return Behaviour(model, varied, repeats, text, why)


def _read_text(model: Model) -> tuple[Tensor | None, str | None]:
    """Rows of text, or why there are none."""
    if model.tokenizer is None:
        return None, model.tokenizer_note or "the model has no tokenizer"
    if model.context is not None and model.context < WINDOW:
        return None, f"a text of {WINDOW} tokens does not fit into the model's context"
    corpus = read_reference()
    try:
        chosen = choose_documents(model, corpus.documents, WINDOW, DOCUMENTS, 0)
    except IclError as error:
        return None, str(error)
    if len(chosen.documents) < 2:
        return None, f"fewer than two documents of {corpus.source} have {WINDOW} tokens"
    rows = cut_windows([ids for _, ids in chosen.documents], chosen.prefix, WINDOW, 1).input_ids
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is not None and float((rows == unknown).double().mean()) > UNKNOWN:
        return None, f"the tokenizer does not know the words of {corpus.source}"
    return rows, None


class _Growing:
    """The losses of more and more sequences with what the model is now.

    Args:
        model: the model.
        base: the unedited run of all of them.
        lowest: the layer from which on the model may have changed.
    """

    def __init__(self, model: Model, base: BaseRun, lowest: int) -> None:
        self.model, self.base, self._lowest = model, base, lowest
        self._nll: list[Tensor] = []

    def grow(self, share: float) -> Tensor | None:
        """Return the losses of a share of the sequences; None where some are not finite."""
        done, count = sum(map(len, self._nll)), len(self.base.input_ids)
        self._run(self.base.part(done, max(2, round(share * count))))
        nll = torch.cat(self._nll)
        return nll if bool(torch.isfinite(nll).all()) else None

    def _run(self, base: BaseRun) -> None:
        stream, model = base.streams.get(self._lowest), self.model

        def work(start: int, stop: int) -> None:
            rows = torch.arange(start, stop)
            short = nullcontext() if stream is None else resume(model.runner, stream, rows)
            with short:
                logits = model.run_pass(
                    base.input_ids[start:stop], ForwardHooks(), base.targets - 1
                )
            assert logits is not None
            if not bool(torch.isfinite(logits).all()):
                self._nll.append(torch.full((len(rows), len(base.targets)), torch.nan))
            else:
                answers = base.wanted(rows, base.targets)
                self._nll.append(score_targets(logits, answers).nll)

        run_in_batches(base.input_ids.shape, model.limit, work, targets=len(base.targets))


def _difference(before: np.ndarray, after: np.ndarray | None, delta: float) -> Difference:
    """The paired difference of as many sequences as there are after the edit."""
    if after is None:
        return Difference(None, None, None, delta)
    confidence = 1 - (1 - CONFIDENCE) / len(LOOKS)
    metric = mean_metric(after - before[: len(after)], keep=False, confidence=confidence)
    if metric.ci_low is None or metric.ci_high is None:
        raise MeasurementError("one sequence has no standard error")
    return Difference(metric.value, metric.ci_low, metric.ci_high, delta)
