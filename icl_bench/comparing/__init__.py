"""Two records of one suite -> what got worse, what got better, what is gone.

`limits` reads how much worse a metric may get, `rounding` says what is no difference, `pairing`
which samples belong together, `metrics` compares numbers, `heads` finds heads that died or
appeared, `comparison` puts it together with the verdicts, and `parts` says which part of a
comparison each difference belongs to. Records only: no model.
"""

from icl_bench.comparing.comparison import Comparison, VerdictChange, compare
from icl_bench.comparing.heads import HeadChange
from icl_bench.comparing.limits import Limit, parse_limit
from icl_bench.comparing.metrics import MetricChange, check_limits
from icl_bench.comparing.parts import Part

__all__ = [
    "Comparison",
    "HeadChange",
    "Limit",
    "MetricChange",
    "Part",
    "VerdictChange",
    "check_limits",
    "compare",
    "parse_limit",
]
