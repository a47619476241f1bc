"""What a model predicts at chosen positions, with sets of heads off: the likeliest tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import ModelError
from icl_bench.models.circuits.interventions import Interventions, require_support, run_groups
from icl_bench.models.module.batching import Advance

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass
class Predictions:
    """The likeliest next tokens after each position asked for.

    Args:
        ids: token ids, likeliest first, shape (sets, sequences, positions, top).
        probabilities: their probabilities, same shape, float32.
        answers: probability of the token that follows in the sequence, shape (sets, sequences,
            positions); 0 after the last one, where none follows.
    """

    ids: Tensor
    probabilities: Tensor
    answers: Tensor


def predict(
    model: Model,
    interventions: Interventions,
    positions: Sequence[int],
    *,
    top: int = 5,
    advance: Advance | None = None,
) -> Predictions:
    """Read the likeliest next tokens of every sequence under every set of parts switched off.

    Args:
        model: the model.
        interventions: the sets, and the run that they start from.
        positions: physical positions whose next token is predicted; the last one may be asked for.
        top: how many tokens of each prediction to keep; all, where the vocabulary has fewer.
        advance: called with the number of rows done, sets * sequences in all.

    Raises:
        NotMeasurable: the model's attention cannot be changed in this way.
        ModelError: a probability is not a finite number, or an ablation did not act.
    """
    require_support(model, interventions.replacement)
    ids = interventions.base.input_ids
    count, length = ids.shape
    after = torch.tensor(list(positions)) + 1
    # What follows the last token is not known: its own id stands there and is never read.
    follows = ids[:, after.clamp(max=length - 1)]
    shape = (len(interventions.sets), count, len(after))
    rows_of: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def take(numbers: Tensor, rows: Tensor, logits: Tensor) -> None:
        probabilities = logits.float().softmax(-1)
        if not bool(torch.isfinite(probabilities).all()):
            raise ModelError("a predicted probability is not a finite number")
        best = probabilities.topk(min(top, probabilities.shape[-1]), -1)
        answers = follows[rows].to(probabilities.device)
        own = probabilities.gather(-1, answers[..., None])[..., 0]
        parts = zip(best.indices.cpu(), best.values.cpu(), own.cpu())
        rows_of.update(zip(zip(numbers.tolist(), rows.tolist()), parts))

    run_groups(model, interventions, interventions.group(), after, take, advance)
    every = [rows_of[number, row] for number in range(shape[0]) for row in range(count)]
    likeliest, probabilities, own = (torch.stack(parts) for parts in zip(*every))
    own = own.reshape(shape).masked_fill(after == length, 0)
    return Predictions(likeliest.reshape(*shape, -1), probabilities.reshape(*shape, -1), own)
