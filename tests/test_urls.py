"""A URL where a local file is needed is refused; no folder called `s3:` is ever made."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import call
from test_render_records import make_record

import icl_bench
from icl_bench.errors import SettingsError
from icl_bench.integrations import TrainingGate
from icl_bench.options import refuse_url

URL = "s3://bucket/x"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("url", [URL, "gs://b", "file:///tmp/x", "hf://a/b", "HTTPS://h/x"])
def test_a_url_is_named_as_it_was_given(url: str) -> None:
    with pytest.raises(SettingsError, match=f"--x={url}: a URL"):
        refuse_url(url, "--x")


def test_what_a_path_has_left_of_a_url_is_one() -> None:
    with pytest.raises(SettingsError, match=f"--x={URL}: a URL"):
        refuse_url(Path(URL), "--x")


@pytest.mark.parametrize(
    "path", ["reports", "/a/b:c/d", "C:/reports", "C:\\reports", "a:b", "./s3:/x"]
)
def test_a_path_is_none(path: str) -> None:
    refuse_url(path, "--x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "builtin:handwired", f"--report-dir={URL}"],
        ["run", "builtin:handwired", f"--cache-dir={URL}"],
        ["run", "builtin:handwired", f"--baseline={URL}"],
        ["run", "builtin:handwired", f"--save-baseline={URL}"],
        ["run", "builtin:handwired", f"--openmetrics={URL}"],
        ["compare", "record.json", "record.json", f"--md={URL}"],
        ["report", "record.json", f"--output={URL}"],
        ["leaderboard", "record.json", f"--output={URL}"],
        ["sweep", "builtin:handwired", f"--csv={URL}"],
        ["cache", f"--cache-dir={URL}"],
    ],
    ids=lambda words: f"{words[0]} {words[-1].partition('=')[0]}",
)
def test_a_command_ends_with_4_before_it_does_anything(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record().write("record.json")
    assert call(*arguments) == 4
    assert f"={URL}: a URL" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "cache" not in path.name] == ["record.json"]


def test_python_refuses_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="a URL"):
        make_record().write(URL)
    with pytest.raises(SettingsError, match="a URL"):
        icl_bench.run(["gate"], "builtin:handwired", cache_dir=URL)
    with pytest.raises(SettingsError, match="a URL"):
        icl_bench.load_model("builtin:handwired", cache_dir=URL)
    with pytest.raises(SettingsError, match="a URL"):
        TrainingGate(None, folder=URL)
    monkeypatch.setenv("ICL_BENCH_CACHE", URL)
    with pytest.raises(SettingsError, match=r"\$ICL_BENCH_CACHE=s3://bucket/x: a URL"):
        icl_bench.run(["gate"], "builtin:handwired")
    assert not list(tmp_path.glob("s3*"))
