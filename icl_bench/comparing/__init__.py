"""Two records of one suite -> what got worse, what got better, what is gone.

`limits` reads how much worse a metric may get, `rounding` says what is no difference, `metrics`
compares numbers, `heads` finds heads that died or appeared, `comparison` puts it together with the
verdicts. Records only: no model.
"""

from icl_bench.comparing.comparison import Comparison, VerdictChange, compare
from icl_bench.comparing.heads import HeadChange
from icl_bench.comparing.limits import Limit, parse_limit
from icl_bench.comparing.metrics import MetricChange, check_limits

__all__ = [
    "Comparison",
    "HeadChange",
    "Limit",
    "MetricChange",
    "VerdictChange",
    "check_limits",
    "compare",
    "parse_limit",
]
