"""What tells, without opening a model, that it is the one that an earlier run opened.

What a model is known by is said by its source; here is added what it is opened with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from icl_bench.errors import IclError
from icl_bench.models.sources.source import Found, Opening
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.table import failing_in, get_source, source_version
from icl_bench.options import RunOptions
from icl_bench.provenance import code_version, digest, library_versions

DEVICES = Path("/dev")
ACCELERATOR_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
OTHER_ACCELERATORS = ("kfd", "dxg", "nvgpu", "nvhost-gpu")
"""Under /dev: AMD's, those of Windows' Linux, and two of NVIDIA's boards."""


def identify(spec: ModelSpec, options: RunOptions, found: Found | None) -> str | None:
    """Return a digest that changes when what a spec names, or how it is opened, changes.

    Args:
        spec: which model.
        options: how it is opened.
        found: what checking it returned.

    Returns:
        the digest, or None for what can change without a trace: callables, code from elsewhere.

    Raises:
        SpecError: another package's source broke.
    """
    version = source_version(spec.kind)
    with failing_in(spec.kind):
        try:
            named = get_source(spec.kind).identity(spec, Opening(options, found))
        except (OSError, IclError):
            return None
        if named is None:
            return None
        return digest(
            {
                "kind": spec.kind,
                "named": named,
                **({} if version is None else {"source": version}),
                "device": options.device,
                "dtype": options.dtype,
                "trust_remote_code": options.trust_remote_code,
                "allow_pickle": options.allow_pickle,
                "accelerators": None if options.device == "cpu" else _accelerators(),
                "libraries": library_versions(readers=True),
                "code": code_version(),
            }
        )


def _accelerators() -> list[Any] | None:
    """What decides which device `auto` is, as far as that can be seen without torch.

    Where the machine shows none, it is the CPU whatever the variables say.
    """
    nodes = sorted(path.name for path in DEVICES.glob("nvidia[0-9]*"))
    nodes += [name for name in OTHER_ACCELERATORS if (DEVICES / name).exists()]
    if not nodes and os.name == "posix":  # elsewhere they are no files
        return None
    return [nodes, {name: os.environ.get(name) for name in ACCELERATOR_VARIABLES}]
