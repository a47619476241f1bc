"""Memory that runs out: by which errors it is known, and what is said of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from icl_bench.errors import ModelError
from icl_bench.models.module.weights import explain_failure

_TEXTS = (
    "can't allocate memory",  # torch on a CPU
    "cannot allocate memory",  # the system, by way of safetensors and others
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "_alloc_failed",  # libraries of CUDA
)
"""What errors that have no type of their own say, in small letters."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on whatever device.

    Args:
        error: what was raised.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "OutOfMemoryError" in kinds:  # torch's, which is not imported for this
        return True
    text = str(error).lower()
    told = "RuntimeError" in kinds or "SafetensorError" in kinds
    return told and any(part in text for part in _TEXTS)


def find_lack(error: BaseException) -> BaseException | None:
    """Return the lack of memory that an error comes from; None where it is something else.

    Args:
        error: what was raised, perhaps while another error was handled.
    """
    seen: BaseException | None = error
    while seen is not None and not ran_out_of_memory(seen):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextmanager
def opening_within_memory(name: str, size: int | None) -> Iterator[None]:
    """Say in one message that memory ran out while a model was opened inside.

    Args:
        name: its spec.
        size: bytes of its weights on disk; None where that is not known.

    Raises:
        ModelError: it did.
    """
    try:
        yield
    except Exception as error:
        lack = find_lack(error)
        if lack is None:
            raise
        from rich.filesize import decimal

        weights = f"its weights take {decimal(size)} on disk; " if size else ""
        raise ModelError(
            f"model {name!r}: memory ran out while it was opened ({explain_failure(lack)}); "
            f"{weights}use a smaller dtype (bfloat16 takes half of float32), another device, or "
            "a machine with more memory"
        ) from lack
