"""Probe `choice`: questions answered by the likelihood of each choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from icl_bench.probes import MetricInfo
from icl_bench.probes.context import Context
from icl_bench.probes.encoding import encode_choices, pad
from icl_bench.probes.scoring import Score, lay_out, likelihoods_alone, score_choice
from icl_bench.probes.settings import StrictSettings
from icl_bench.record import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.models.model import Model


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
    """Log-likelihood of a choice: summed over its tokens, per token, or summed and less what it is
    after nothing."""


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo("share of questions answered right", "up", "ratio"),
    "chance": MetricInfo("accuracy of guessing", None, "ratio", True),
    "excess_accuracy": MetricInfo("accuracy minus chance", "up", "ratio"),
    "margin": MetricInfo("score of the answer minus that of the best other choice", "up", "nats"),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Answer every question by the likelihood of its choices after the prompt.

    Args:
        model: the model.
        settings: the questions.
        context: progress.

    Raises:
        NotMeasurable: there is no tokenizer, or it does not know a word of a question.
        MeasurementError: a choice becomes no token of its own.
    """
    from icl_bench.measures.tokens import digest_tokens
    from icl_bench.models.baserun import run_base

    encoded = [encode_choices(model, item.prompt, item.choices) for item in settings.items]
    flat = [ids for sequences, _ in encoded for ids in sequences]
    model.require_context(max(map(len, flat)))
    sheet = lay_out(encoded, model.vocabulary[0])
    with context.task("choice questions", len(sheet.input_ids)) as advance:
        run = run_base(
            model, sheet.input_ids, sheet.targets, answers=sheet.answers, advance=advance
        )
    alone: dict[str, float] = {}
    if settings.score == "unconditional":
        alone = likelihoods_alone(model, [text for item in settings.items for text in item.choices])

    answers: list[dict[str, Any]] = []
    for item, parts in zip(settings.items, sheet.log_likelihoods(run.losses.nll)):
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
    return Measurement(
        probe="choice",
        settings=settings.model_dump(),
        tokens_sha256=digest_tokens(pad(flat, model.vocabulary[0])),
        metrics=_summarize(settings, answers),
        tables={"answers": answers},
    )


def _summarize(settings: Settings, answers: list[dict[str, Any]]) -> dict[str, Metric]:
    from icl_bench.measures import statistics as st

    chance = sum(1 / len(item.choices) for item in settings.items) / len(settings.items)
    if len(answers) == 1:
        # One question has one answer: nothing was sampled.
        accuracy = st.exact_metric(answers[0]["correct"], 1)
        margin = st.exact_metric(answers[0]["margin"], 1)
    else:
        accuracy = st.proportion_metric([row["correct"] for row in answers])
        margin = st.mean_metric([row["margin"] for row in answers])
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
