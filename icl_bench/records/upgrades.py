"""Records of older schemas, made into the present one, a version at a time.

Adding a field keeps the schema: readers ignore fields that they do not know, and give those that
are missing their default. Anything else (a field renamed, moved, of another unit) makes a new
schema: raise `record.SCHEMA` by one and add a row here, so that records from before can be read.
`tests/records/` holds a record as each schema wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from icl_bench.errors import RecordError

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

UPGRADES: dict[int, Upgrade] = {}
"""Schema -> what makes its data into that of the next one; `schema` itself is set by `upgrade`."""


def upgrade(
    data: dict[str, Any], target: int, upgrades: Mapping[int, Upgrade] | None = None
) -> dict[str, Any]:
    """Return a record's data in the present schema.

    Args:
        data: parsed JSON that has a `schema`; not changed where the functions do not.
        target: the present schema.
        upgrades: as `UPGRADES`, which is the default.

    Raises:
        RecordError: the schema is of a later version, or no version that was ever written.
    """
    steps = UPGRADES if upgrades is None else upgrades
    version = data["schema"]
    if type(version) is not int or version < 1:
        raise RecordError(f"record schema {version!r} is none; this version reads 1 to {target}")
    if version > target:
        author = data.get("icl_bench")
        by = f" (icl_bench {author})" if isinstance(author, str) else ""
        raise RecordError(
            f"record schema {version} was written by a later version{by}; this one reads up to "
            f"{target}: update icl_bench"
        )
    while version < target:
        if version not in steps:
            raise RecordError(f"record schema {version} cannot be read any more")
        try:
            data = steps[version](data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RecordError(
                f"record schema {version}: it does not hold what it should "
                f"({type(error).__name__}: {error})"
            ) from None
        version += 1
        data = {**data, "schema": version}
    return data
