"""How many rows go through the model at once, and what happens when memory runs out.

A batch is bounded by its tokens and by the memory of its logits. When memory runs out all the
same, the bound is halved for the rest of the model's life and the batch is run again in parts;
batches that were done stay done. Where it runs out outside of such batches, the whole measurement
is taken again with smaller ones.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from icl_bench.errors import ModelError
from icl_bench.models.module.memory import ran_out_of_memory
from icl_bench.models.module.weights import explain_failure

TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens in one forward pass when the batch size is found automatically, by kind of device."""
LOGIT_BYTES = 256 * 2**20
"""Memory that one batch of logits may take."""
STREAM_BYTES = 512 * 2**20
"""Memory that stored residual streams may take."""

LEAST_TOKENS = 64
"""Tokens of a batch below which smaller ones are not tried for a whole measurement."""

Advance = Callable[[int], None]
Result = TypeVar("Result")


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

    def shrink(self) -> bool:
        """Take a quarter from now on; return whether batches had more than a row or so.

        For memory that ran out somewhere in a measurement: which batch was too large is not known.
        """
        if self._tokens <= LEAST_TOKENS or self.fixed == 1:
            return False
        self._tokens //= 4
        if self.fixed is not None:
            self.fixed = max(1, self.fixed // 4)
        return True


class _Limited(Protocol):
    @property
    def limit(self) -> BatchLimit: ...


def run_within_memory(model: _Limited, work: Callable[[], Result]) -> Result:
    """Return what `work` returns; where memory runs out, it is done again in smaller batches.

    Args:
        model: whose largest batch is then a smaller one.
        work: something whose result does not depend on how rows are batched.

    Raises:
        ModelError: memory runs out in the smallest batches too.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            told = explain_failure(error)
        free_memory()
        if not model.limit.shrink():
            raise ModelError(
                f"memory ran out, with batches of one row too ({told}); use fewer or shorter "
                "sequences, a smaller dtype or another device"
            )


def free_memory() -> None:
    """Give back what failed batches held; it is free only when their frames are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
            free_memory()
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
