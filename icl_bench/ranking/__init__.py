"""Many records -> which model is better than which, by every metric, as far as they tell.

`entries` finds and reads records, `columns` says which metrics there are and which one ranks,
`groups` keeps apart what cannot be compared, `pairs` tells models apart, `circuit` says which have
nothing to rank, `board` puts it together. Records only: no model.
"""

from icl_bench.ranking.board import Board, Cell, Group, Row, rank
from icl_bench.ranking.columns import Column
from icl_bench.ranking.entries import Entries, Entry, read_entries

__all__ = [
    "Board",
    "Cell",
    "Column",
    "Entries",
    "Entry",
    "Group",
    "Row",
    "rank",
    "read_entries",
]
