"""Probe `choice`: questions answered by the likelihood of each choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes import MetricInfo
from icl_bench.probes.context import Context
from icl_bench.probes.settings import StrictSettings
from icl_bench.record import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

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
    score: Literal["sum", "mean"] = "sum"
    """Log-likelihood of a choice: summed over its tokens, or per token."""


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo("share of questions answered right", "up", "ratio"),
    "chance": MetricInfo("accuracy of guessing", None, "ratio", True),
    "excess_accuracy": MetricInfo("accuracy minus chance", "up", "ratio"),
    "margin": MetricInfo(
        "log-likelihood of the answer minus that of the best other choice", "up", "nats"
    ),
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

    encoded = [encode_item(model, item) for item in settings.items]
    longest = max(len(ids) for sequences, _ in encoded for ids in sequences)
    model.require_context(longest)
    flat = [ids for sequences, _ in encoded for ids in sequences]
    # Padding goes to the right, where a causal model cannot see it.
    batch = torch_batch(flat, longest, model.vocabulary[0])
    with context.task("choice questions", len(flat)) as advance:
        nll = model.losses(batch, advance=advance).nll.double()

    answers: list[dict[str, Any]] = []
    row = 0
    for item, (sequences, shared) in zip(settings.items, encoded):
        scores = []
        for ids in sequences:
            own = nll[row, shared - 1 : len(ids) - 1]
            scores.append(-float(own.sum() if settings.score == "sum" else own.mean()))
            row += 1
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
        tokens_sha256=digest_tokens(batch),
        metrics=_summarize(settings, answers),
        tables={"answers": answers},
    )


def torch_batch(sequences: list[list[int]], length: int, filler: int) -> Tensor:
    """Stack sequences of different lengths, filled up on the right."""
    import torch

    return torch.tensor([ids + [filler] * (length - len(ids)) for ids in sequences])


def encode_item(model: Model, item: Item) -> tuple[list[list[int]], int]:
    """Tokenize prompt and choice together, once per choice.

    The text is never glued together from ids tokenized apart. Where a choice changes how the
    prompt's end is tokenized, the tokens from the first difference on are scored, for every
    choice from the same place.

    Args:
        model: for its tokenizer.
        item: the question.

    Returns:
        ids of prompt + choice for each choice, and how many leading ids all of them share with
        the prompt.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: a choice becomes no token, or the prompt becomes none.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise NotMeasurable(f"no text can be put to the model: {model.tokenizer_note}")
    prompt = _encode(tokenizer, item.prompt)
    sequences = [_encode(tokenizer, item.prompt + choice) for choice in item.choices]
    for choice, ids in zip(item.choices, sequences):
        if ids == prompt:
            raise MeasurementError(f"choice {choice!r} becomes no token after {item.prompt!r}")
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            raise NotMeasurable(
                f"the tokenizer does not know every word of {item.prompt + choice!r}"
            )
    shared = min(_common(prompt, ids) for ids in sequences)
    if shared == 0:
        raise MeasurementError(f"nothing stands before the choices of {item.prompt!r}")
    return sequences, shared


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer(text)["input_ids"])
    # Some tokenizers close every text with an end token, which nothing may follow.
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
        ids.pop()
    return ids


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


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
