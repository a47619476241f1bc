"""What a measurement goes by in plans and records: `SUITE/NAME`."""

from __future__ import annotations


class Key(str):
    """A measurement's key, to be taken apart; what is stored and sent is plain text."""

    __slots__ = ()

    @property
    def suite(self) -> str:
        """Name of the suite; there is no `/` in it."""
        return self.partition("/")[0]

    @property
    def name(self) -> str:
        """Name of the measurement in the suite."""
        return self.partition("/")[2]
