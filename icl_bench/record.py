"""The public name of `icl_bench.records.record`: RunRecord, its parts, `read` and `write`."""

from icl_bench.records.record import *  # noqa: F403
