"""How many rows go through the model at once, and what happens when memory runs out.

A batch is bounded by its tokens and by the memory of its logits. When memory runs out all the
same, the bound is halved for the rest of the model's life and the batch is run again in parts;
batches that were done stay done.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from icl_bench.errors import ModelError

TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens in one forward pass when the batch size is found automatically, by kind of device."""
LOGIT_BYTES = 256 * 2**20
"""Memory that one batch of logits may take."""
STREAM_BYTES = 512 * 2**20
"""Memory that stored residual streams may take."""

Advance = Callable[[int], None]


class BatchLimit:
    """The largest batch that one model takes.

    Args:
        device: kind of the device, e.g. `cpu`.
        rows: rows of every batch as the user asked for, or None to choose.
        logit_bytes: bytes of the logits of one position.
    """

    def __init__(self, device: str, rows: int | None, logit_bytes: int) -> None:
        self.fixed = rows
        self._tokens = TOKENS.get(device, TOKENS["cuda"])
        self._logit_bytes = logit_bytes

    def rows(self, length: int, targets: int = 0) -> int:
        """Return how many rows of `length` tokens to run at once, for logits of `targets`."""
        if self.fixed is not None:
            return self.fixed
        rows = max(1, self._tokens // length)
        if targets:
            rows = min(rows, max(1, LOGIT_BYTES // (self._logit_bytes * targets)))
        return rows

    def halve(self, rows: int, length: int) -> None:
        """Take at most half as much from now on as a batch of `rows` that did not fit."""
        self._tokens = max(1, rows * length // 2)
        if self.fixed is not None:
            self.fixed = max(1, min(self.fixed, rows) // 2)


def run_in_batches(
    shape: Sequence[int],
    limit: BatchLimit,
    work: Callable[[int, int], None],
    *,
    targets: int = 0,
    advance: Advance | None = None,
) -> None:
    """Call `work(start, stop)` over all rows, in batches of about one size.

    Args:
        shape: rows in all, and tokens in a row.
        limit: the model's largest batch; halved when memory runs out.
        work: runs rows start..stop-1 and keeps their results only when it succeeds.
        targets: positions of a row whose logits are computed.
        advance: called with the number of rows done.

    Raises:
        ModelError: memory runs out on a single row.
    """
    (total, length), start = shape, 0
    while start < total:
        left = total - start
        batches = -(-left // limit.rows(length, targets))
        size = -(-left // batches)
        if not _fits(work, start, start + size):
            if size == 1:
                raise ModelError(
                    f"memory ran out on a single row of {length} tokens; use shorter sequences, "
                    "a smaller dtype or another device"
                )
            limit.halve(size, length)
            # The failed batch's tensors are free only now that its frames are gone.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += size
        if advance:
            advance(size)


def _fits(work: Callable[[int, int], None], start: int, stop: int) -> bool:
    try:
        work(start, stop)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    return True


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text
    )
