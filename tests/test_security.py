"""What docs/security.md promises and no other test shows."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import checkpoints
import pytest
from huggingface_hub import constants
from test_loading_hub import use_hub

from icl_bench.cli import main
from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec

ROOT = Path(__file__).parents[1]
SUITE = """\
icl_suite: 1
name: small
measure: {r: {probe: induction, sequences: 2, period: 6}}
checks: [{id: c, on: r, metric: induction_max, at_least: -1}]
"""
OWN_CODE = """\
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path("ran").touch()
class OwnConfig(LlamaConfig): model_type = "own"
class OwnForCausalLM(LlamaForCausalLM): config_class = OwnConfig
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SUITE)


def test_a_run_on_local_models_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> None:
        pytest.fail(f"a connection to {given}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    checkpoints.write_llama(Path("model"))
    assert main(["run", "builtin:handwired", "./model", "--suite=small.yaml"]) == 0
    assert main(["leaderboard", "reports"]) == 0
    with pytest.raises(pytest.fail.Exception):
        socket.create_connection(("127.0.0.1", 9))


def test_code_of_a_model_does_not_run_without_trust(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkpoints.write_llama(Path("model"))
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    checkpoints.edit_config(
        folder, model_type="own", architectures=["OwnForCausalLM"], auto_map=own
    )
    (folder / "own.py").write_text(OWN_CODE)
    assert main(["run", "./model", "--suite=small.yaml"]) == 1
    assert "--icl-trust-remote-code if you trust it" in capsys.readouterr().out
    assert not Path("ran").exists()
    assert main(["run", "./model", "--suite=small.yaml", "--trust-remote-code"]) == 0
    assert Path("ran").exists()


def test_a_token_and_the_place_of_a_model_are_in_no_file_that_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    checkpoints.write_llama(Path("private-place") / "mine")
    assert main(["run", "private-place/mine", "--suite=small.yaml", "--cache-dir=kept"]) == 0
    written = [path for path in Path("reports").rglob("*") if path.is_file()]
    written += Path("kept", "measurements").rglob("*.json")
    assert len(written) > 5
    for path in written:
        text = path.read_text(errors="replace")
        assert "hf_secret" not in text and "private-place" not in text, path
        assert str(tmp_path) not in text, path
    assert "hf_secret" not in "".join(capsys.readouterr())


def test_a_password_in_the_hubs_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_hub(monkeypatch, "http://name:secret@127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for spec in ("org/tiny", "org/tiny@*"):
        with pytest.raises(SpecError) as refused:
            check_spec(parse_spec(spec))
        assert "http://127.0.0.1:9" in str(refused.value) and "secret" not in str(refused.value)


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(), f"{file}::{name}"
