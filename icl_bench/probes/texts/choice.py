"""Probe `choice`: questions answered by the likelihood of each choice, clean and ablated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from icl_bench.measures.bounds import SIGNED, UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadList, HeadSelection, StrictSettings
from icl_bench.probes.prompts.encoding import encode_choices, pad
from icl_bench.probes.prompts.scoring import Score, Sheet, lay_out, likelihoods_alone, score_choice
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Item(StrictSettings):
    """One question."""

    prompt: Annotated[str, Field(min_length=1)]
    """Text that the choices continue."""
    choices: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    """Possible continuations, leading space included."""
    answer: str
    """The right one, written as in `choices`."""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Item:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("two choices are the same")
        if self.answer not in self.choices:
            raise ValueError(f"answer {self.answer!r} is not one of the choices {self.choices}")
        return self


class Settings(StrictSettings):
    """What a suite may set for the `choice` probe."""

    items: Annotated[list[Item], Field(min_length=1)]
    """The questions."""
    score: Score = "sum"
    """Log-likelihood of a choice: summed over its tokens, per token, or the sum minus the
    log-likelihood without a prompt."""
    group: Annotated[int, Field(ge=1)] = 1
    """Questions in a row that share a text; margins are averaged over them before anything else."""
    heads: HeadSelection | HeadList | None = None
    """Heads to ablate; none when not given."""
    method: Literal["zero", "mean"] = "mean"
    """What replaces their outputs: nothing, or their mean over the questions' positions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of heads chosen at random."""

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Settings:
        if len(self.items) % self.group:
            raise ValueError(f"{len(self.items)} questions are no groups of {self.group}")
        return self

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """Questions; the answer to a single one is exact."""
        return ("items", len(self.items)) if len(self.items) > 1 else None

    @property
    def absent(self) -> dict[str, str]:
        """What is read with heads off, where there are none."""
        why = "the suite names no 'heads' to ablate"
        return dict.fromkeys(("heads", *ABLATED), why) if self.heads is None else {}


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo("share of questions answered right", "up", "ratio", bounds=UNIT),
    "chance": MetricInfo("accuracy of guessing", None, "ratio", True),
    "excess_accuracy": MetricInfo("accuracy minus chance", "up", "ratio"),
    "margin": MetricInfo("score of the answer minus that of the best other choice", "up", "nats"),
    "heads": MetricInfo("number of heads switched off", None, "heads", True),
    "accuracy_ablated": MetricInfo("accuracy with the heads off", None, "ratio", bounds=UNIT),
    "accuracy_lost": MetricInfo(
        "accuracy minus accuracy_ablated, paired", "up", "ratio", bounds=SIGNED
    ),
    "margin_ablated": MetricInfo("margin with the heads off", None, "nats"),
    "margin_lost": MetricInfo("margin minus margin_ablated, paired", "up", "nats"),
    "margin_share_lost": MetricInfo("margin_lost / margin", "up", "ratio"),
}
ABLATED = (
    *("accuracy_ablated", "accuracy_lost"),
    *("margin_ablated", "margin_lost", "margin_share_lost"),
)


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Answer every question by the likelihood of its choices, with heads on and off.

    Args:
        model: the model.
        settings: the questions, and which heads to switch off.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: there is no tokenizer, or it does not know a word of a question; heads are
            to be switched off and there are none.
        MeasurementError: a choice becomes no token of its own, or a head does not exist.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures.tokens import digest_tokens
    from icl_bench.models.circuits.interventions import switch_off
    from icl_bench.models.clean_run import run_base
    from icl_bench.probes.design.head_selection import choose_heads, explain_empty

    encoded = [encode_choices(model, item.prompt, item.choices) for item in settings.items]
    flat = [ids for sequences, _ in encoded for ids in sequences]
    model.require_context(max(map(len, flat)))
    heads: list[Head] = []
    if settings.heads is not None:
        model.require_heads()
        heads = choose_heads(model, settings, context.upstream)
    alone: dict[str, float] = {}
    if settings.score == "unconditional":
        alone = likelihoods_alone(model, [text for item in settings.items for text in item.choices])
    sheet = lay_out(encoded, model.vocabulary[0])
    first = {min(layer for layer, _ in heads)} if heads else set()
    rows = len(sheet.input_ids) * (2 if heads else 1)
    with context.task("choice questions", rows) as advance:
        run = run_base(
            model, sheet.input_ids, sheet.targets, first, answers=sheet.answers, advance=advance
        )
        answers = _answer(settings, sheet, run.losses.nll, alone)
        if heads:
            shortest = min(map(len, flat)) - 1
            how = _stand_in(model, settings, sheet.input_ids[:, :shortest], heads)
            off = switch_off(model, run, [heads], how, advance=advance)
    result = Measurement(
        probe="choice",
        settings=settings.model_dump(by_alias=True, exclude_none=True),
        tokens_sha256=digest_tokens(pad(flat, model.vocabulary[0])),
        metrics=_summarize(settings, answers),
        tables={"answers": answers},
    )
    if settings.heads is None:
        result.unmeasured = settings.absent
        return result
    result.metrics["heads"] = st.exact_metric(len(heads))
    result.tables["ablated_heads"] = [{"layer": layer, "head": head} for layer, head in heads]
    if heads:
        _compare(result, settings, answers, _answer(settings, sheet, off.nll[0], alone))
    else:
        result.reason = explain_empty(settings.heads)
        _report_no_change(result)
    return result


def _report_no_change(result: Measurement) -> None:
    """What an empty ablation changes needs no measuring."""
    from icl_bench.measures.statistics import exact_metric

    lost = ("accuracy_lost", "margin_lost", "margin_share_lost")
    result.metrics |= {name: exact_metric(0) for name in lost}
    for name in ("accuracy", "margin"):
        result.metrics[f"{name}_ablated"] = result.metrics[name]


def _stand_in(
    model: Model, settings: Settings, plain: Tensor, heads: Sequence[Head]
) -> Replacement:
    """What heads write instead: nothing, or their mean over the questions.

    Args:
        model: the model.
        settings: which of the two.
        plain: the questions' ids as far as all of them reach, (rows, positions).
        heads: the heads.
    """
    from icl_bench.models.attention.ablation import ZEROS, Replacement

    if settings.method == "zero":
        return ZEROS
    prefix = int(model.bos is not None and bool((plain[:, 0] == model.bos).all()))
    return Replacement(model.mean_outputs(plain, prefix, {layer for layer, _ in heads}))


def _answer(
    settings: Settings, sheet: Sheet, nll: Tensor, alone: dict[str, float]
) -> list[dict[str, Any]]:
    """One row a question: what was chosen, whether that is right, and by how much."""
    answers: list[dict[str, Any]] = []
    for item, parts in zip(settings.items, sheet.log_likelihoods(nll)):
        scores = [
            score_choice(part, settings.score, alone.get(choice, 0.0))
            for choice, part in zip(item.choices, parts)
        ]
        right = item.choices.index(item.answer)
        others = [score for place, score in enumerate(scores) if place != right]
        answers.append(
            {
                "prompt": item.prompt,
                "answer": item.answer,
                "chosen": item.choices[max(range(len(scores)), key=scores.__getitem__)],
                "correct": scores[right] > max(others),
                "margin": scores[right] - max(others),
                "log_likelihoods": dict(zip(item.choices, scores)),
            }
        )
    return answers


def _margins(settings: Settings, answers: list[dict[str, Any]]) -> list[float]:
    """Mean margin of each group of questions: what is sampled is texts."""
    values, size = [float(row["margin"]) for row in answers], settings.group
    return [sum(values[i : i + size]) / size for i in range(0, len(values), size)]


def _compare(
    result: Measurement,
    settings: Settings,
    answers: list[dict[str, Any]],
    ablated: list[dict[str, Any]],
) -> None:
    """Add what the same questions get with the heads off."""
    from icl_bench.measures import statistics as st

    before, after = ([row["correct"] for row in rows] for rows in (answers, ablated))
    clean, off = _margins(settings, answers), _margins(settings, ablated)
    lost = [whole - left for whole, left in zip(clean, off)]
    found: dict[str, Metric]
    for row, other in zip(result.tables["answers"], ablated):
        row |= {f"{name}_ablated": other[name] for name in ("chosen", "correct", "margin")}
    if len(answers) == 1:
        found = {
            "accuracy_ablated": st.exact_metric(after[0], 1),
            "accuracy_lost": st.exact_metric(before[0] - after[0], 1),
            "margin_ablated": st.exact_metric(off[0], 1),
            "margin_lost": st.exact_metric(lost[0], 1),
        }
    else:
        found = {
            "accuracy_ablated": st.proportion_metric(after),
            "accuracy_lost": st.proportion_lost_metric(before, after),
            "margin_ablated": st.mean_metric(off),
            "margin_lost": st.mean_metric(lost),
        }
    result.metrics |= found
    margin = result.metrics["margin"]
    if (margin.value if margin.ci_low is None else margin.ci_low) > 0:
        share = st.share_metric(lost, clean)
        result.metrics["margin_share_lost"] = share.model_copy(update={"exact": margin.exact})
    else:
        why = f"the right answers' margin, {margin.value:.3g} nats, is not surely above 0"
        result.unmeasured["margin_share_lost"] = why


def _summarize(settings: Settings, answers: list[dict[str, Any]]) -> dict[str, Metric]:
    from icl_bench.measures import statistics as st

    chance = sum(1 / len(item.choices) for item in settings.items) / len(settings.items)
    if len(answers) == 1:
        # One question has one answer: nothing was sampled.
        accuracy = st.exact_metric(answers[0]["correct"], 1)
        margin = st.exact_metric(answers[0]["margin"], 1)
    else:
        accuracy = st.proportion_metric([row["correct"] for row in answers])
        margin = st.mean_metric(_margins(settings, answers))
    shifted = {
        name: getattr(accuracy, name) - chance
        for name in ("value", "ci_low", "ci_high")
        if getattr(accuracy, name) is not None
    }
    return {
        "accuracy": accuracy,
        "chance": st.exact_metric(chance),
        "excess_accuracy": accuracy.model_copy(update={**shifted, "samples": None}),
        "margin": margin,
    }


PROBE = Probe("choice", Settings, METRICS, measure)
