"""The cache on disk: whole entries or none, whoever writes and however it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from icl_bench.options import RunOptions
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.running.cache import Cache, CacheWarning, KnownModel, open_cache

KEY = "0" * 64
TAKEN = Measurement(
    probe="induction",
    settings={"seed": 0, "heads": {"from": "repeats", "top": 1}},
    seconds=1.5,
    metrics={"gain": Metric(value=0.1 + 0.2, stderr=1e-17, n=3, samples=[1 / 3, 2 / 3])},
    heads=[{"layer": 0, "head": 1, "induction": 0.123456789012345678}],
    tables={"null": [{"draw": 0, "heads": "0.1 ä", "loss_ratio": None}]},
)
KNOWN = KnownModel(
    conditions={"weights": "abc", "bos": None, "behaviour": [1.234]},
    model=ModelInfo(spec="gpt2", slug="gpt2", fingerprint="abc", heads=[1, 2]),
    environment=Environment(python="3", torch="2", platform="here", device="cpu", threads=1),
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entry(cache: Cache, key: str = KEY) -> Path:
    return cache.folder / "measurements" / f"{key}.json"


def test_what_is_kept_is_found_to_the_last_digit_and_marked(cache: Cache) -> None:
    assert cache.find(KEY) is None
    cache.keep(KEY, TAKEN)
    found = cache.find(KEY)
    assert found is not None and found.cached and not TAKEN.cached
    assert found == TAKEN.model_copy(update={"cached": True})
    assert cache.find("1" * 64) is None
    # An entry is a plain measurement.
    assert "cached" not in json.loads(entry(cache).read_text())


def test_what_is_known_of_a_model_comes_back_as_it_was(cache: Cache) -> None:
    assert cache.load_known(KEY) is None
    cache.save_known(KEY, KNOWN)
    assert cache.load_known(KEY) == KNOWN


def test_looking_makes_no_folder(cache: Cache) -> None:
    assert cache.find(KEY) is None and cache.load_known(KEY) is None
    assert not cache.folder.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b'{"probe": 3}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda content: repr(content[:12]),
)
def test_a_broken_entry_counts_as_absent_and_is_replaced(cache: Cache, content: bytes) -> None:
    cache.keep(KEY, TAKEN)
    cache.save_known(KEY, KNOWN)
    for path in (entry(cache), cache.folder / "models" / f"{KEY}.json"):
        path.write_bytes(content)
    assert cache.find(KEY) is None and cache.load_known(KEY) is None
    cache.keep(KEY, TAKEN)
    assert cache.find(KEY) is not None


def test_an_entry_cut_anywhere_counts_as_absent(cache: Cache) -> None:
    cache.keep(KEY, TAKEN)
    whole = entry(cache).read_bytes().rstrip(b"\n")
    for length in range(len(whole)):
        entry(cache).write_bytes(whole[:length])
        assert cache.find(KEY) is None, length
    entry(cache).write_bytes(whole)
    assert cache.find(KEY) is not None


def test_a_measurement_that_json_cannot_hold_is_not_kept(cache: Cache) -> None:
    odd = TAKEN.model_copy(update={"tables": {"null": [{"loss_ratio": float("nan")}]}})
    cache.keep(KEY, odd)
    assert cache.find(KEY) is None


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is needed")
    cache = Cache(tmp_path / "cache")
    with pytest.warns(CacheWarning, match=r"cache cannot be written \(.*; .* is not kept"):
        cache.keep(KEY, TAKEN)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        cache.keep(KEY, TAKEN)
        cache.save_known(KEY, KNOWN)
    assert raised == [] and cache.find(KEY) is None and cache.load_known(KEY) is None


def test_where_warnings_are_errors_measuring_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where a folder is needed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cache(tmp_path / "cache").keep(KEY, TAKEN)
    assert "what is measured is not kept" in capsys.readouterr().err


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(
    cache: Cache,
) -> None:
    cache.keep(KEY, TAKEN)
    old, new = (
        entry(cache).with_name(f".{'1' * 64}.json.x"),
        entry(cache).with_name(f".{'2' * 64}.json.x"),
    )
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (1, 1))
    with Cache(cache.folder) as later:
        assert later.trim() is None
    assert entry(cache).exists()
    assert new.exists() and not old.exists()


def test_the_options_say_whether_and_where(tmp_path: Path) -> None:
    assert open_cache(RunOptions(cache=False, cache_dir=tmp_path)) is None
    chosen = open_cache(RunOptions(cache_dir=tmp_path))
    assert chosen is not None and chosen.folder == tmp_path
    default = open_cache(RunOptions())
    assert default is not None and str(default.folder) == os.environ["ICL_BENCH_CACHE"]


WRITER = """
import os, sys
from pathlib import Path
from icl_bench.running.cache import Cache
from icl_bench.records.parts import Measurement
folder, key, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(folder / f"ready-{name}").touch()
while not (folder / "go").exists():
    pass
for _ in range(100):
    Cache(folder).keep(key, Measurement(probe=name, reason=name * 20000))
"""


def test_readers_see_whole_entries_while_two_processes_write_the_same_key(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), KEY, name])
        for name in ("a", "b")
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(writer.poll() is None for writer in writers)
    (tmp_path / "go").touch()
    cache, seen, absent_after_first = Cache(tmp_path), set(), 0
    while any(writer.poll() is None for writer in writers):
        found = cache.find(KEY)
        if found is None:
            absent_after_first += bool(seen)
        else:
            assert found.reason == found.probe * 20000
            seen.add(found.probe)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert absent_after_first == 0
    assert cache.find(KEY) is not None
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == [f"{KEY}.json"]


KILLED = """
import os, sys
from pathlib import Path
from icl_bench.running.cache import Cache
from icl_bench.records.parts import Measurement
os.replace = lambda *paths: os._exit(9)
Cache(Path(sys.argv[1])).keep(sys.argv[2], Measurement(probe="new"))
"""


@pytest.mark.parametrize("before", [None, TAKEN])
def test_a_process_killed_while_it_writes_leaves_what_was_there(
    cache: Cache, before: Measurement | None
) -> None:
    if before:
        cache.keep(KEY, before)
    done = subprocess.run([sys.executable, "-c", KILLED, str(cache.folder), KEY], check=False)
    assert done.returncode == 9
    found = cache.find(KEY)
    assert (found and found.probe) == (before and before.probe)
    cache.keep(KEY, TAKEN)
    assert cache.find(KEY) is not None
