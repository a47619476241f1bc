"""The public name of `icl_bench.records`: RunRecord, its parts, reading and writing."""

from icl_bench.records.parts import *  # noqa: F403
from icl_bench.records.reading import *  # noqa: F403
from icl_bench.records.record import *  # noqa: F403
from icl_bench.records.writing import *  # noqa: F403
