"""Log-likelihoods of many choices after many prompts, in as few rows as they take.

Choices of one prompt differ in their last tokens only. A choice needs a row that holds all of its
tokens but the last; one row serves every choice whose tokens it holds, and gives the likelihood of
several tokens at the same position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from icl_bench.errors import MeasurementError
from icl_bench.probes.prompts.encoding import encode_alone, pad

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.model import Model

Score = Literal["sum", "mean", "unconditional"]
"""`sum`: log-likelihood of a choice after the prompt. `mean`: the same per token of the choice.
`unconditional`: the sum minus the log-likelihood of the choice after nothing."""
Encoded = tuple[Sequence[Sequence[int]], int]
"""Ids of prompt + choice for each choice, and how many leading ids belong to the prompt."""


@dataclass
class Sheet:
    """Rows to run for some questions, and where each choice's tokens are scored.

    Args:
        input_ids: (rows, length), filled up on the right.
        targets: physical positions of all target tokens, the last may lie after the last id.
        answers: ids to score, (rows, targets, choices); fillers where a choice is not scored.
        places: for each question and choice: its row, and its first and last target + 1.
        rows: for each question, the number of the row after its last.
    """

    input_ids: Tensor
    targets: Tensor
    answers: Tensor
    places: list[list[tuple[int, int, int]]]
    rows: list[int]

    def log_likelihoods(self, nll: Tensor) -> list[list[Tensor]]:
        """Read the log-likelihoods of every choice's tokens.

        Args:
            nll: losses (rows, targets, choices); rows of the last questions may be missing.

        Returns:
            for each question that has rows, for each choice, one value per token, float64.
        """
        count = sum(stop <= len(nll) for stop in self.rows)
        return [
            [
                -nll[row, start:stop, choice].double()
                for choice, (row, start, stop) in enumerate(places)
            ]
            for places in self.places[:count]
        ]


def lay_out(questions: Sequence[Encoded], filler: int) -> Sheet:
    """Find the rows that serve all choices of some questions.

    Args:
        questions: each with the ids of prompt + choice.
        filler: id to fill up with.
    """
    import torch

    first = min(shared for _, shared in questions)
    rows: list[Sequence[int]] = []
    ends: list[int] = []
    placed: list[list[int]] = []
    for sequences, _ in questions:
        start = len(rows)
        for ids in sorted(sequences, key=len, reverse=True):
            if _find(rows, start, ids) is None:
                rows.append(ids[:-1])
        found = [_find(rows, start, ids) for ids in sequences]
        placed.append([row for row in found if row is not None])
        ends.append(len(rows))
    input_ids = pad(rows, filler)
    targets = torch.arange(first, input_ids.shape[1] + 1)
    most = max(len(sequences) for sequences, _ in questions)
    answers = torch.full((len(rows), len(targets), most), filler)
    places = []
    for (sequences, shared), own in zip(questions, placed):
        for choice, (ids, row) in enumerate(zip(sequences, own)):
            part = slice(shared - first, len(ids) - first)
            answers[row, part, choice] = torch.tensor(ids[shared:])
        places.append([(row, shared - first, len(ids) - first) for ids, row in zip(sequences, own)])
    return Sheet(input_ids, targets, answers, places, ends)


def _find(rows: Sequence[Sequence[int]], start: int, ids: Sequence[int]) -> int | None:
    """Return the first row from `start` on that holds all of `ids` but the last."""
    wanted = list(ids[:-1])
    for place in range(start, len(rows)):
        if list(rows[place][: len(wanted)]) == wanted:
            return place
    return None


def score_choice(parts: Tensor, how: Score, alone: float = 0.0) -> float:
    """Return the score of one choice.

    Args:
        parts: log-likelihoods of its tokens after the prompt.
        how: which score.
        alone: its log-likelihood after nothing, for `unconditional`.
    """
    if how == "mean":
        return float(parts.mean())
    return float(parts.sum()) - (alone if how == "unconditional" else 0.0)


def likelihoods_alone(model: Model, choices: Sequence[str]) -> dict[str, float]:
    """Log-likelihood of each choice after nothing: after BOS, or EOS where there is no BOS.

    This is what lm-evaluation-harness subtracts for `acc_mutual_info`: the choice, leading space
    included, is tokenized alone and follows the one token.

    Args:
        model: the model.
        choices: the choices; each is run once.

    Returns:
        choice -> nats.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: the tokenizer knows neither BOS nor EOS.
    """
    from icl_bench.models.clean_run import run_base

    distinct = list(dict.fromkeys(choices))
    alone = [encode_alone(model, choice) for choice in distinct]
    tokenizer: Any = model.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise MeasurementError("score: unconditional needs a BOS or an EOS token to start from")
    # As the harness does, a choice that begins with that very token is not given another.
    begun = [ids if ids[0] == start else [start, *ids] for ids in alone]
    sheet = lay_out([([ids], 1) for ids in begun], model.vocabulary[0])
    losses = run_base(model, sheet.input_ids, sheet.targets, answers=sheet.answers).losses
    found = sheet.log_likelihoods(losses.nll)
    return {choice: float(parts[0].sum()) for choice, parts in zip(distinct, found)}
