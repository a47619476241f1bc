"""Who does the parts of a run: processes of this machine."""

from icl_bench.executors.processes import LocalProcesses
from icl_bench.executors.protocol import Executor, Hire, Lost, Share, Take, Worker

__all__ = ["Executor", "Hire", "LocalProcesses", "Lost", "Share", "Take", "Worker"]
