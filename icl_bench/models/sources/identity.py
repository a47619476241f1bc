"""What tells, without opening a model, that it is the one that an earlier run opened.

Files are known by path, size, times and inode, not by content: a checkpoint of gigabytes is not
read to find out that nothing changed. The time of a file's last change of state (ctime) cannot
be set back as the time of its last modification can.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError
from icl_bench.models.sources.folder import read_json
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.provenance import code_version, digest, library_versions

if TYPE_CHECKING:
    from icl_bench.models.sources.hub import HubModel

DEVICES = Path("/dev")
ACCELERATOR_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
OTHER_ACCELERATORS = ("kfd", "dxg", "nvgpu", "nvhost-gpu")
"""Under /dev: AMD's, those of Windows' Linux, and two of NVIDIA's boards."""
_IRRELEVANT = (".md", ".log")


def identify(spec: ModelSpec, options: RunOptions, found: HubModel | None) -> str | None:
    """Return a digest that changes when what a spec names, or how it is opened, changes.

    Args:
        spec: which model.
        options: how it is opened.
        found: where a hub id was found.

    Returns:
        the digest, or None for what can change without a trace: callables, code from elsewhere.
    """
    try:
        named = _named(spec, options, found)
    except (OSError, IclError):
        return None
    if named is None:
        return None
    return digest(
        {
            "kind": spec.kind,
            "named": named,
            "device": options.device,
            "dtype": options.dtype,
            "trust_remote_code": options.trust_remote_code,
            "allow_pickle": options.allow_pickle,
            "accelerators": None if options.device == "cpu" else _accelerators(),
            "libraries": library_versions(readers=True),
            "code": code_version(),
        }
    )


def _named(spec: ModelSpec, options: RunOptions, found: HubModel | None) -> Any:
    if spec.kind == "builtin":
        from icl_bench.reference import WEIGHTS

        folder = WEIGHTS / spec.target
        shipped = _files(folder.iterdir()) if folder.is_dir() else None
        return [spec.target, spec.revision, shipped]
    if spec.kind == "gguf":
        return _files([Path(spec.target)])
    if spec.kind == "folder":
        folder = Path(spec.target).resolve()
        if options.trust_remote_code and _borrows_code(folder):
            return None
        files = {
            path
            for path in folder.iterdir()
            if path.is_file() and path.name[0] != "." and path.suffix.lower() not in _IRRELEVANT
        }
        if options.trust_remote_code:
            files |= set(folder.rglob("*.py"))
        return _files(files)
    if spec.kind == "hub" and found is not None:
        if options.trust_remote_code and (found.folder is None or _borrows_code(found.folder)):
            return None
        return [spec.target, found.commit]
    return None


def _files(paths: Any) -> list[list[Any]]:
    """What the file system says of files, those behind links."""
    told = []
    for path in sorted(paths):
        stat = path.stat()
        times = [stat.st_mtime_ns, stat.st_ctime_ns]
        told.append([os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, *times])
    return told


def _borrows_code(folder: Path) -> bool:
    """Whether a checkpoint runs code of another repository, which may change there."""
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            if isinstance(content, dict) and "--" in str(content.get("auto_map")):
                return True
    return False


def _accelerators() -> list[Any] | None:
    """What decides which device `auto` is, as far as that can be seen without torch.

    Where the machine shows none, it is the CPU whatever the variables say.
    """
    nodes = sorted(path.name for path in DEVICES.glob("nvidia[0-9]*"))
    nodes += [name for name in OTHER_ACCELERATORS if (DEVICES / name).exists()]
    if not nodes and os.name == "posix":  # elsewhere they are no files
        return None
    return [nodes, {name: os.environ.get(name) for name in ACCELERATOR_VARIABLES}]
