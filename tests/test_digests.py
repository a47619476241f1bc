"""What was changed after it was written is noticed: records, baselines, entries of the cache."""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path

import pytest
from conftest import Stage
from test_cache import KEY, KNOWN, TAKEN, entry
from test_render_records import make_record

from icl_bench.cli import main
from icl_bench.comparing import compare
from icl_bench.errors import RecordError
from icl_bench.records.digests import sign
from icl_bench.records.reading import read_numbers, read_record
from icl_bench.running.cache import Cache, CacheWarning

FROZEN = Path(__file__).parent / "records" / "schema-1.json"


def flipped(content: bytes, draw: random.Random) -> bytes:
    """The content with one bit of it changed."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def same_values(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_record().write(tmp_path / "results.json")


@pytest.mark.parametrize("read", [read_record, read_numbers])
def test_a_flipped_bit_in_a_record_is_refused(path: Path, read) -> None:
    content, draw = path.read_bytes(), random.Random(0)
    read(path)
    for _ in range(60):
        changed = flipped(content, draw)
        path.write_bytes(changed)
        if not same_values(content, changed):
            with pytest.raises(RecordError, match=re.escape(str(path))):
                read(path)


def test_a_flipped_bit_in_an_entry_of_the_cache_is_told_and_measured_anew(tmp_path: Path) -> None:
    draw = random.Random(0)
    Cache(tmp_path).keep(KEY, TAKEN)
    Cache(tmp_path).save_known(KEY, KNOWN)
    places = (entry(Cache(tmp_path)), tmp_path / "models" / f"{KEY}.json")
    for place, find in zip(places, (Cache.find, Cache.load_known)):
        content = place.read_bytes()
        for _ in range(30):
            changed = flipped(content, draw)
            place.write_bytes(changed)
            if same_values(content, changed):
                continue
            with pytest.warns(CacheWarning, match=r"changed after it was written; .* anew"):
                assert find(Cache(tmp_path), KEY) is None
        place.write_bytes(content)
        assert find(Cache(tmp_path), KEY) is not None


def test_an_entry_is_told_once_and_one_without_a_digest_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(KEY, TAKEN)
    content = json.loads(entry(cache).read_text())
    entry(cache).write_text(json.dumps({**content, "probe": "other"}))
    with pytest.warns(CacheWarning):
        assert cache.find(KEY) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.find(KEY) is None
        del content["digest"]
        entry(cache).write_text(json.dumps(content))
        assert Cache(tmp_path).find(KEY) is None


def test_layout_does_not_count_and_fields_of_later_versions_do(path: Path) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(data.items())), indent=4))
    assert read_record(path) == make_record() and read_record(path).doubt is None
    data["later"] = {"field": 1}
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match="its content was changed"):
        read_record(path)
    data["digest"] = sign(data)
    path.write_text(json.dumps(data))
    assert read_record(path) == make_record() and read_numbers(path).doubt is None


def test_any_text_is_read_back_under_its_digest(tmp_path: Path) -> None:
    # Halves of a surrogate pair side by side become one character in the file.
    for text in ("\ud83d\ude00", "\ud83d", "ä\u2028\x1b", "\ufeff"):
        record = make_record()
        record.model.spec = text
        assert read_record(record.write(tmp_path / "results.json")).doubt is None
        read_numbers(tmp_path / "results.json")


def test_a_digest_under_a_changed_name_is_a_change(path: Path) -> None:
    path.write_text(path.read_text().replace('"digest"', '"dIgest"', 1))
    with pytest.raises(RecordError, match="its content was changed"):
        read_record(path)


def test_a_record_without_a_digest_is_read_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(FROZEN)
    assert record.doubt and record.doubt.startswith("no digest")
    assert f"the baseline has {record.doubt}" in compare(record, make_like(record)).remarks
    assert main(["report", str(FROZEN), "--output", str(tmp_path)]) == 0
    assert f"{FROZEN}: no digest" in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_bytes(FROZEN.read_bytes())
    main(["leaderboard", str(tmp_path)])
    assert "no digest" in (tmp_path / "leaderboard.md").read_text()


def make_like(record):
    return type(record).model_validate(record.model_dump(by_alias=True))


def test_a_changed_baseline_is_one_line_and_exit_code_4(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(path), str(path)]) == 0
    capsys.readouterr()
    other = path.with_name("other.json")
    other.write_text(re.sub(r'"value": 0\.\d', '"value": 0.3', path.read_text(), count=1))
    for order in ((path, other), (other, path)):
        assert main(["compare", *map(str, order)]) == 4
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        assert str(other) in said.err and "changed after it was written" in said.err


def test_a_changed_entry_is_measured_anew_in_a_run(real_stage: Stage, tmp_path: Path) -> None:
    real_stage.write(
        "kept.yaml",
        "icl_suite: 1\nname: kept\nmeasure:\n  r: {probe: induction, sequences: 8, period: 25}\n"
        "checks: [{id: a, on: r, metric: induction_max, above: 0.4}]\n",
    )
    options = ("--icl-model=builtin:handwired", "kept.yaml", f"--icl-cache-dir={tmp_path / 'c'}")
    assert real_stage.run(*options).ret == 0
    first = real_stage.record("builtin-handwired").checks[0]
    (place,) = (tmp_path / "c" / "measurements").iterdir()
    text = place.read_text()
    changed = re.sub(r'("induction_max": \{"value": )0\.\d', r"\g<1>0.3", text)
    assert changed != text
    place.write_text(changed)
    result = real_stage.run(*options)
    assert result.ret == 0
    assert "changed after it was written; it is measured anew" in result.stdout.str()
    again = real_stage.record("builtin-handwired")
    assert again.checks[0] == first and not again.measurements["kept/r"].cached
    assert place.read_text() == text or json.loads(place.read_text())["digest"]
