"""`icl-bench cache`: what is kept, and what becomes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
from filelock import FileLock
from test_cache import KNOWN
from test_cache_limit import fill, kept, other, tick

import icl_bench
from icl_bench.cli import main
from icl_bench.models.sources.gguf.source import find_copies
from icl_bench.running.cache import Cache

COPY, OTHER = (f"{letter * 32}-transformers-5.1" for letter in "ab")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with four measurements, a known model and two float copies."""
    folder = tmp_path / "cache"
    fill(folder)
    Cache(folder).save_known("5" * 64, KNOWN)
    os.utime(folder / "models" / f"{'5' * 64}.json", (5, 5))
    for name, size in ((COPY, 3000), (f"{OTHER}.part-x", 500)):
        (folder / "gguf" / name).mkdir(parents=True)
        (folder / "gguf" / name / "model.safetensors").write_bytes(bytes(size))
    (folder / "gguf" / "digests.json").write_text("{}")
    return folder


def tell(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> list[str]:
    assert main(["cache", "--cache-dir", str(folder), *options]) == 0
    return capsys.readouterr().out.splitlines()


def bytes_below(folder: Path, kind: str) -> int:
    return sum(path.stat().st_size for path in (folder / kind).rglob("*.json"))


def test_it_shows_what_there_is_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    where, *rows, limit = tell(capsys, folder)
    assert where == str(folder)
    assert [row.split()[-3:] for row in rows] == [
        ["4", f"{bytes_below(folder, 'measurements') / 1000:.1f}", "kB"],
        ["1", str(bytes_below(folder, "models")), "bytes"],
        ["2", "3.5", "kB"],
    ]
    assert [row.split()[0] for row in rows] == ["measurements", "known", "float"]
    assert limit.startswith("limit of measurements and known models: ")
    assert limit.endswith("(by free disk; a run's --cache-limit=SIZE changes it)")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_folder_that_is_not_there_is_empty_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = tmp_path / "none"
    assert [line.split()[-3] for line in tell(capsys, none)[1:4]] == ["0", "0", "0"]
    assert tell(capsys, none, "--clear") == [f"nothing is kept in {none}"]
    tell(capsys, none, "--cache-limit=0")
    assert not none.exists()


def test_without_a_folder_it_is_the_default_one(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    icl_bench.run([tiny], "builtin:handwired")
    assert main(["cache"]) == 0
    where, measured, known, *_ = capsys.readouterr().out.splitlines()
    assert where == os.environ["ICL_BENCH_CACHE"]
    assert "      2  " in measured and "      1  " in known


def test_clearing_removes_all_and_says_how_much(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = (bytes_below(folder, "measurements") + bytes_below(folder, "models")) / 1000
    assert tell(capsys, folder, "--clear") == [
        f"removed from {folder}: entries 5 ({size:.1f} kB), float copies 2 (3.5 kB)"
    ]
    assert kept(folder) == kept(folder, "models") == "" and find_copies(folder) == []
    assert list((folder / "runs").iterdir()) == []
    assert tell(capsys, folder, "--clear") == [f"nothing is kept in {folder}"]


def test_clearing_spares_what_a_live_run_uses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = other(folder)
    first, second = tell(capsys, folder, "--clear")
    assert ": entries 4 (" in first and first.endswith(", float copies 0 (0 bytes)")
    assert second == (
        "not removed: entries 2, float copies 2; processes with a live run that use the folder: 1"
    )
    assert kept(folder) == "37" and len(find_copies(folder)) == 2
    run.communicate("end")
    tick(folder)
    (line,) = tell(capsys, folder, "--clear")
    assert ": entries 2 (" in line and kept(folder) == ""


def test_a_copy_that_is_being_made_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(folder / "gguf" / f"{OTHER}.lock"):
        assert main(["cache", "--cache-dir", str(folder), "--clear"]) == 1
    told = capsys.readouterr()
    assert "float copies 1 (3.0 kB)" in told.out
    assert told.err.strip() == (
        f"icl-bench: {folder}: not removed: entries 0, float copies 1; "
        "they are in use or cannot be removed"
    )
    assert [copy.name for copy in find_copies(folder)] == [OTHER]


def test_a_cleared_gguf_file_is_converted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoints.write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "cache"
    icl_bench.load_model(str(file), cache_dir=folder)
    assert tell(capsys, folder)[3].split()[-3] == "1"
    (line,) = tell(capsys, folder, "--clear")
    assert ": entries 0 (0 bytes), float copies 1 (" in line
    assert find_copies(folder) == []
    icl_bench.load_model(str(file), cache_dir=folder)
    assert len(find_copies(folder)) == 1


def test_with_a_limit_what_is_beyond_goes_now(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = bytes_below(folder, "measurements") // 4
    limit = bytes_below(folder, "models") + 2 * size
    first, *_, last = tell(capsys, folder, f"--cache-limit={limit}")
    assert first.startswith("cache: removed 2 of 5 entries (")
    assert last.endswith("(as given)")
    assert kept(folder) == "23" and kept(folder, "models") == "5"
    assert tell(capsys, folder, f"--cache-limit={limit}")[0] == str(folder)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--cache-limit=lots"], "--cache-limit=lots: must be a size such as 500MB"),
        (["--clear", "--cache-limit=1"], "--clear and --cache-limit: give one of them"),
        (["--cache-dir=file"], "file is not a folder"),
        (["--clear", "--cache-dir=file"], "file is not a folder"),
    ],
)
def test_a_mistake_is_one_message(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(Path(os.environ["ICL_BENCH_CACHE"]))
    Path("file").touch()
    assert main(["cache", *options]) == 4
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"icl-bench: {message}")
    assert told.err.count("\n") == 1
    assert kept(Path(os.environ["ICL_BENCH_CACHE"])) == "0123"


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from icl_bench.cli import main; "
        f"main(['cache', '--cache-dir', {str(folder)!r}, '--clear']); "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_where_runs_cannot_be_marked_nothing_is_cleared_and_it_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs").write_text("a file where a folder is needed")
    assert main(["cache", f"--cache-dir={folder}", "--clear"]) == 1
    assert "nothing was removed: runs cannot be marked there" in capsys.readouterr().err


def test_a_name_that_no_file_system_takes_is_one_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["cache", f"--cache-dir={'x' * 300}"]) == 4
    assert "cannot be read (File name too long)" in capsys.readouterr().err
