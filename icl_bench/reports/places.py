"""Whether the places that results are to be written to can be, before anything is measured."""

from __future__ import annotations

import os
from pathlib import Path

from icl_bench.errors import SettingsError
from icl_bench.options import refuse_url


def check_report_dir(given: str, option: str, start: Path = Path()) -> Path:
    """Refuse a report folder that cannot be written, before an hour of measuring; return it.

    Args:
        given: the folder; it need not be there.
        option: the option that named it.
        start: what a relative path is relative to.

    Raises:
        SettingsError: it is a URL, a file or below one, or it must not be written to.
    """
    refuse_url(given, option)
    folder = start / given
    _check_folder(folder, f"{option}={given}")
    return folder


def check_file(given: str, option: str, start: Path = Path()) -> Path:
    """Refuse a file that cannot be written, before an hour of measuring; return it.

    Args:
        given: the file; it need not be there.
        option: the option that named it.
        start: what a relative path is relative to.

    Raises:
        SettingsError: it is a URL or a folder, or its folder cannot be written.
    """
    refuse_url(given, option)
    path = start / given
    _check_folder(path.parent, f"{option}={given}")
    try:
        is_folder = path.is_dir()
    except OSError as error:  # no name of a file
        raise SettingsError(f"{option}={given}: cannot be written ({error.strerror})") from None
    if is_folder:
        raise SettingsError(f"{option}={given}: is a folder; expected the name of a file")
    return path


def _check_folder(folder: Path, given: str) -> None:
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:
        raise SettingsError(f"{given}: cannot be written ({error.strerror})") from None
    if not there.is_dir():
        raise SettingsError(f"{given}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK):
        raise SettingsError(f"{given}: {there} cannot be written")
