"""What a run removes at its end: what is beyond the limit, and nothing that live runs have used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import Stage
from test_cache import KNOWN, TAKEN, entry

import icl_bench
from icl_bench.cli import main
from icl_bench.errors import SettingsError
from icl_bench.models.sources.gguf.source import find_copies
from icl_bench.options import read_size
from icl_bench.running import cache as caches
from icl_bench.running.cache import Cache, CacheWarning

GOOD = "--icl-model=stub:good"
OLD = ["0", "1", "2", "3"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with four entries of earlier runs, the first one used longest ago."""
    fill(tmp_path / "cache")
    return tmp_path / "cache"


def fill(folder: Path) -> None:
    writer = Cache(folder)
    for age, digit in enumerate(OLD):
        writer.keep(digit * 64, TAKEN)
        os.utime(entry(writer, digit * 64), (age + 1, age + 1))


def kept(folder: Path, kind: str = "measurements") -> str:
    """First digits of the entries that are there."""
    return "".join(sorted(path.name[0] for path in (folder / kind).glob("[0-9]*")))


def size_of_one(folder: Path) -> int:
    return entry(Cache(folder), "0" * 64).stat().st_size


def default_cache() -> Path:
    return Path(os.environ["ICL_BENCH_CACHE"])


def test_what_was_used_longest_ago_goes_first_and_only_at_the_end(folder: Path) -> None:
    with Cache(folder, limit=4 * size_of_one(folder)) as cache:
        cache.keep("9" * 64, TAKEN)
        assert cache.find("0" * 64) is not None  # used now: it stays
        assert kept(folder) == "01239"
        removed = cache.trim()
    assert kept(folder) == "0239"
    assert removed is not None
    assert (removed.entries, removed.before, removed.size) == (1, 5, size_of_one(folder))
    assert removed.describe("--x").startswith("cache: removed 1 of 5 entries (")
    assert f"from {folder}; limit " in removed.describe("--x")
    assert removed.describe("--x").endswith(", changed by --x=SIZE")


def test_within_the_limit_everything_stays(folder: Path) -> None:
    with Cache(folder, limit=4 * size_of_one(folder)) as cache:
        assert cache.trim() is None
    with Cache(folder) as cache:
        assert cache.trim() is None
    assert kept(folder) == "0123"


def test_what_this_run_wrote_or_read_stays_beyond_the_limit(folder: Path) -> None:
    Cache(folder).save_known("1" * 64, KNOWN)
    Cache(folder).save_known("2" * 64, KNOWN)
    for path in (folder / "models").iterdir():
        os.utime(path, (1, 1))
    with Cache(folder, limit=0) as cache:
        cache.keep("8" * 64, TAKEN)
        cache.save_known("8" * 64, KNOWN)
        assert cache.find("1" * 64) and cache.load_known("1" * 64)
        removed = cache.trim()
    assert removed is not None and removed.entries == 4
    assert kept(folder) == "18" and kept(folder, "models") == "18"


def test_a_run_that_is_over_keeps_nothing_from_going(folder: Path) -> None:
    with Cache(folder) as first:
        first.keep("7" * 64, TAKEN)
    os.utime(entry(Cache(folder), "7" * 64), (9, 9))
    with Cache(folder, limit=0) as cache:
        cache.trim()
    assert kept(folder) == ""


OTHER = """
import os, sys
from pathlib import Path
from icl_bench.running.cache import Cache
from icl_bench.records.parts import Measurement
with Cache(Path(sys.argv[1])) as cache:
    cache.keep("7" * 64, Measurement(probe="other"))
    cache.find("3" * 64)
    print("used", flush=True)
    sys.stdin.readline()
    print("over", flush=True) if sys.argv[2] == "ends" else os._exit(9)
"""


def other(folder: Path, end: str = "ends") -> subprocess.Popen[str]:
    """A run in another process that has written one entry and read one."""
    run = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout and run.stdout.readline() == "used\n"
    return run


def tick(folder: Path) -> None:
    """Wait until the file system's clock, which moves in steps, has left what was used before."""
    last = max(path.stat().st_mtime_ns for path in (folder / "measurements").iterdir())
    clock = folder.parent / "clock"
    clock.touch()
    while clock.stat().st_mtime_ns <= last:
        clock.touch()


def test_what_another_live_run_used_stays(folder: Path) -> None:
    run = other(folder)
    for _ in range(2):
        with Cache(folder, limit=0) as cache:
            cache.trim()
        assert kept(folder) == "37"
    # To one that began beside it, it does not matter that it is over by then.
    with Cache(folder, limit=0) as cache:
        run.communicate("end")
        assert cache.trim() is None
    assert kept(folder) == "37"
    tick(folder)
    with Cache(folder, limit=0) as cache:
        cache.trim()
    assert kept(folder) == ""


def test_what_a_killed_run_used_may_go(folder: Path) -> None:
    run = other(folder, "dies")
    run.communicate("now")
    assert run.returncode == 9 and len(list((folder / "runs").iterdir())) == 1
    tick(folder)
    with Cache(folder, limit=0) as cache:
        cache.trim()
    assert kept(folder) == "" and list((folder / "runs").iterdir()) == []


def test_an_entry_used_by_another_run_while_this_one_looks_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Cache.limit

    def meanwhile(cache: Cache, taken: int) -> int:
        assert Cache(folder).find("0" * 64)
        return original(cache, taken)

    monkeypatch.setattr(Cache, "limit", meanwhile)
    with Cache(folder, limit=0) as cache:
        cache.trim()
    assert kept(folder) == "0"


def test_a_run_within_a_run_leaves_removing_to_the_outer_one(folder: Path) -> None:
    with Cache(folder, limit=0) as outer:
        with Cache(folder, limit=0) as inner:
            assert inner.trim() is None
        assert kept(folder) == "0123"
        assert outer.trim() is not None
    assert kept(folder) == ""


def test_another_users_entry_that_is_read_becomes_this_runs_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "not yours")

    monkeypatch.setattr(os, "utime", refuse)
    with Cache(folder, limit=0) as cache:
        found = cache.find("1" * 64)
        assert found == TAKEN.model_copy(update={"cached": True})
        cache.trim()
        assert cache.find("1" * 64) == found
    assert kept(folder) == "1"


def test_where_no_mark_can_be_left_nothing_is_removed(folder: Path) -> None:
    (folder / "runs").write_text("a file where a folder is needed")
    with Cache(folder, limit=0) as cache:
        assert cache.trim() is None
    assert kept(folder) == "0123"


def test_a_folder_that_is_deleted_meanwhile_is_no_trouble(folder: Path) -> None:
    with Cache(folder, limit=0) as cache:
        shutil.rmtree(folder)
        assert cache.trim() is None
    assert not folder.exists()


def test_without_a_limit_the_free_disk_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = namedtuple("disk", "free")

    def of(free: int, taken: int = 0, where: Path = folder) -> int:
        monkeypatch.setattr(caches.shutil, "disk_usage", lambda path: disk(free))
        return Cache(where).limit(taken)

    assert of(100 * 10**9) == 10 * 10**9
    # What the entries take themselves is as good as free: they do not shrink their own limit.
    assert of(60 * 10**9, 40 * 10**9) == 10 * 10**9
    assert of(10**9) == of(0) == 2**30
    assert Cache(folder, 5).limit(3) == 5

    def only_root(path: Path) -> disk:
        if path != Path(path.anchor):
            raise FileNotFoundError
        return disk(40 * 10**9)

    monkeypatch.setattr(caches.shutil, "disk_usage", only_root)
    assert Cache(folder / "not" / "yet").limit(0) == 4 * 10**9


@pytest.mark.parametrize(
    "text, size",
    [
        ("0", 0),
        ("123", 123),
        ("12B", 12),
        ("300kB", 300_000),
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("500M", 500 * 10**6),
        ("500 mb", 500 * 10**6),
        ("1Ki", 1024),
        (" 2TiB ", 2**41),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert read_size(text, "--x") == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1", "-5MB", "1,5GB", "5 apples", "1e9", "nan", "inf", "5iB", "3PB", "2 G B"],
)
def test_what_is_no_size_is_one_message(text: str) -> None:
    with pytest.raises(SettingsError, match="--x=.*: must be a size such as 500MB"):
        read_size(text, "--x")


@pytest.fixture
def weighed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose stub's results are kept, with four entries of earlier runs in the cache."""
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    fill(default_cache())
    return stage


LINE = "cache: removed 4 of * entries (*) from */icl_bench-cache; limit 300 bytes, changed by *"


def test_pytest_removes_at_the_end_and_says_so(weighed: Stage) -> None:
    result = weighed.run(GOOD, "mine.yaml", "--icl-cache-limit=300")
    assert result.ret == 0
    result.stdout.fnmatch_lines([LINE + "--icl-cache-limit=SIZE"])
    assert kept(default_cache(), "runs") == ""
    result = weighed.run(GOOD, "mine.yaml", "--icl-cache-limit=300")
    result.stdout.fnmatch_lines(["*2 of 2 measurements from the cache"])
    result.stdout.no_fnmatch_line("cache: removed*")


def test_by_default_nothing_goes_and_nothing_is_said(weighed: Stage) -> None:
    result = weighed.run(GOOD, "mine.yaml")
    result.stdout.no_fnmatch_line("cache: removed*")
    assert set("0123") <= set(kept(default_cache()))


def test_a_run_that_is_interrupted_removes_none_of_its_own(weighed: Stage) -> None:
    text = (weighed.path / "mine.yaml").read_text()
    weighed.write("mine.yaml", text.replace("tag: second", "tag: second, act: interrupt"))
    result = weighed.run(GOOD, "mine.yaml", "--icl-cache-limit=300")
    result.stdout.fnmatch_lines([LINE + "--icl-cache-limit=SIZE"])
    assert len(list((default_cache() / "measurements").iterdir())) == 1


def test_under_xdist_the_controller_removes_and_no_worker(weighed: Stage) -> None:
    pytest.importorskip("xdist")
    weighed.write(
        "conftest.py",
        "import os, pathlib, pytest\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_unconfigure(config):\n"
        "    cache = pathlib.Path(os.environ['ICL_BENCH_CACHE'])\n"
        "    old = len(list((cache / 'measurements').glob('[0-3]' * 64 + '*')))\n"
        "    if hasattr(config, 'workerinput'):\n"
        "        pathlib.Path('worker-' + config.workerinput['workerid']).write_text(str(old))\n",
    )
    both = (GOOD, "--icl-model=stub:fine", "mine.yaml", "-n", "2")
    result = weighed.run(*both, "--icl-cache-limit=300")
    result.assert_outcomes(passed=6)
    lines = [line for line in result.outlines if line.startswith("cache: removed")]
    assert len(lines) == 1 and "removed 4 of 8 entries" in lines[0]
    assert [path.read_text() for path in weighed.path.glob("worker-*")] == ["4", "4"]
    result = weighed.run(*both, "--icl-cache-limit=300")
    assert "2 of 2 measurements from the cache" in result.stdout.str()
    assert len(weighed.log("measured")) == 4
    assert list((default_cache() / "runs").iterdir()) == []


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_wrong_size_ends_in_exit_code_4(weighed: Stage, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("xdist")
    result = weighed.run(GOOD, "mine.yaml", "--icl-cache-limit=lots", *workers)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--icl-cache-limit=lots: must be a size such as 500MB*"])
    assert weighed.log() == []


def test_looking_at_what_would_run_marks_nothing(weighed: Stage) -> None:
    weighed.run(GOOD, "mine.yaml", "--collect-only")
    weighed.run("mine.yaml")
    assert not (default_cache() / "runs").exists()


def test_the_command_removes_and_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(default_cache())
    command = ["run", "builtin:handwired", "--suite", str(tiny), "--cache-limit"]
    assert main([*command, "lots"]) == 4
    told = capsys.readouterr().err
    assert (
        told.startswith("icl-bench: --cache-limit=lots: must be a size") and told.count("\n") == 1
    )
    assert kept(default_cache()) == "0123" and not (default_cache() / "runs").exists()
    assert main([*command, "1kB"]) == 0
    out = capsys.readouterr().out
    assert "cache: removed 4 of 7 entries (" in out and "changed by --cache-limit=SIZE" in out
    assert main([*command, "1kB"]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 measurements from the cache" in out and "cache: removed" not in out
    assert list((default_cache() / "runs").iterdir()) == []


def test_in_python_what_went_is_a_warning(tiny: Path) -> None:
    fill(default_cache())
    with pytest.raises(SettingsError, match="cache_limit=-1: must be a size"):
        icl_bench.run([tiny], "builtin:handwired", cache_limit=-1)
    with pytest.warns(CacheWarning, match=r"removed 4 of 7 entries .* cache_limit=SIZE"):
        icl_bench.run([tiny], "builtin:handwired", cache_limit="1kB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = icl_bench.run([tiny], "builtin:handwired", cache_limit=0)
    assert all(taken.cached for taken in record.measurements.values())


def test_a_suite_that_a_test_runs_removes_nothing_itself(real_stage: Stage) -> None:
    fill(default_cache())
    real_stage.write(
        "test_it.py",
        "import os, pathlib\n"
        "def test_it(icl):\n"
        "    icl.run(['tiny.yaml'])\n"
        "    there = pathlib.Path(os.environ['ICL_BENCH_CACHE'], 'measurements').iterdir()\n"
        "    assert len(list(there)) == 6\n",
    )
    model = "--icl-model=builtin:handwired"
    result = real_stage.run(model, "test_it.py", "--icl-cache-limit=1kB", "-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["cache: removed 4 of 7 entries*"])


def test_files_that_are_not_ours_stay_in_a_folder_that_is(tmp_path: Path) -> None:
    """A cache folder may be someone's project, which has folders of such names too."""
    old = [
        tmp_path / place
        for place in ("models/mine.gguf", "models/.gitkeep", "measurements/lab.csv", "runs/1.csv")
    ]
    copy = tmp_path / "gguf" / "my-llama" / "llama.gguf"
    for path in [*old, copy]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        os.utime(path, (1, 1))
    with Cache(tmp_path, 0) as cache:
        assert cache.entries() == {"measurements": (0, 0), "models": (0, 0)}
        assert cache.trim() is None
    assert find_copies(tmp_path) == []
    assert all(path.exists() for path in [*old, copy])
