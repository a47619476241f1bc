"""Hub ids, against a hub on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from hub_server import HubServer, Repo
from huggingface_hub import constants, file_download

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.opening.loading import LoadedParts, load_parts
from icl_bench.models.sources import hub as hub_module
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.source import Found


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repo]:
    root = tmp_path_factory.mktemp("repos")
    main = checkpoints.write_llama(root / "main")
    early = checkpoints.write_llama(root / "early", seed=1)
    other = root / "other"
    other.mkdir()
    (other / "README.md").write_text("no model")
    encoder = checkpoints.write_llama(root / "encoder")
    checkpoints.edit_config(encoder, model_type="bert", architectures=["BertModel"])
    bare = checkpoints.write_llama(root / "bare")
    (bare / "model.safetensors").unlink()
    outside = checkpoints.write_shards(root / "outside")
    (outside / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../w"}}')
    return {
        "org/outside": Repo({"main": outside}),
        "org/tiny": Repo({"main": main, "step10": early}),
        "tiny": Repo({"main": main}),
        "org/sharded": Repo({"main": checkpoints.write_shards(root / "sharded")}),
        "org/pickle": Repo({"main": checkpoints.write_pickle(root / "pickle")}),
        "org/gated": Repo({"main": main}, gated=True),
        "org/down": Repo({"main": main}, status=503),
        "org/forbidden": Repo({"main": main}, status=403),
        "org/readme": Repo({"main": other}),
        "org/encoder": Repo({"main": encoder}),
        "org/bare": Repo({"main": bare}),
    }


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Set in this process what HF_ENDPOINT and its like set at start."""
    import transformers.utils.hub

    address = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    # Older versions have copied the address into this module.
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", address, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(cache), raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub(
    repos: dict[str, Repo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    with HubServer(repos) as server:
        use_hub(monkeypatch, server.endpoint, tmp_path / "cache")
        yield server


def load(text: str, **options: Any) -> LoadedParts:
    return load_parts(parse_spec(text), device="cpu", **options)


def refusal(text: str, **options: bool) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(text), **options)
    message = str(caught.value)
    assert message.startswith(f"model {text!r}: ") and "\n" not in message
    return message


def logits(parts: LoadedParts) -> torch.Tensor:
    with torch.no_grad():
        return parts.model(torch.tensor([[3, 4, 5]])).logits


def test_a_model_loads_with_its_tokenizer_and_commit(hub: HubServer) -> None:
    parts = load("org/tiny")
    assert parts.revision == hub.repos["org/tiny"].commit("main")
    assert parts.tokenizer is not None and parts.tokenizer_note is None
    assert torch.equal(logits(parts), checkpoints.make_llama()(torch.tensor([[3, 4, 5]])).logits)


def test_a_revision_loads_its_own_weights(hub: HubServer) -> None:
    parts = load("org/tiny@step10")
    commit = hub.repos["org/tiny"].commit("step10")
    assert parts.revision == commit
    assert not torch.equal(logits(parts), logits(load("tiny")))
    assert load(f"org/tiny@{commit}").revision == commit


def test_a_sharded_model_loads(hub: HubServer) -> None:
    assert load("org/sharded").tokenizer is None


def test_checking_a_model_costs_a_few_requests_and_downloads_no_weights(hub: HubServer) -> None:
    check_spec(parse_spec("org/tiny"))
    assert len(hub.requests) <= 5
    assert not any(r.startswith("GET") and "safetensors" in r for r in hub.requests)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/none", "has no such model; if it is private, log in with 'hf auth login'"),
        ("org/tiny@step11", "has this model, but no revision 'step11'"),
        ("org/gated", "access to it is restricted: accept its terms at http://127.0.0.1:"),
        ("org/forbidden", "refuses access (status 403); log in with"),
        ("org/down", "answers with status 503, and no copy of it is in the cache"),
        ("org/readme", "the repository has no config.json, so it is no transformers model"),
        ("org/outside", "names a file outside of the checkpoint"),
        ("org/encoder", "not a causal language model: its config.json describes an encoder (bert)"),
        ("org/bare", "the repository has no weights (model.safetensors)"),
        ("org/pickle", "--icl-allow-pickle if you trust its author"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    hub: HubServer, text: str, message: str
) -> None:
    text_of_refusal = refusal(text)
    assert message in text_of_refusal
    with pytest.raises(SpecError, match="model "):
        load(text)


def test_a_model_whose_terms_were_not_accepted_says_where_they_are(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the repository holds is public, its files are not.
    monkeypatch.setattr(hub.repos["org/tiny"], "closed", True)
    assert f"accept its terms at {hub.endpoint}/org/tiny, then log in" in refusal("org/tiny")


def test_a_server_that_answers_with_a_page_is_told_from_a_hub(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("json.dumps", lambda *_, **__: "<html>")
    assert "is not a model hub; check HF_ENDPOINT and proxy" in refusal("org/tiny")


def test_an_unknown_model_names_a_local_one_of_nearly_that_name(
    hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "tiny-llama").mkdir()
    assert refusal("tiny-lama").endswith("; did you mean 'tiny-llama'?")


def test_a_pickle_loads_when_allowed_and_no_conversion_is_asked_for(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    check_spec(parse_spec("org/pickle"), allow_pickle=True)
    load("org/pickle", allow_pickle=True)
    assert not any("discussions" in r or r.startswith("POST") for r in hub.requests)
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ


def test_no_weights_of_any_kind_are_refused_even_with_pickles_allowed(hub: HubServer) -> None:
    assert "the repository has no weights" in refusal("org/bare", allow_pickle=True)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_hub_is_named_and_asked_once_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{_closed_port()}"
    use_hub(monkeypatch, endpoint, tmp_path)
    # A retry would sleep first.
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub was asked again"))
    text = refusal("org/tiny")
    assert f"{endpoint} cannot be reached (ConnectionRefusedError: " in text
    assert "no copy of it is in the cache, which would have been used" in text


def test_a_hub_that_never_answers_is_given_up_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_hub(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        monkeypatch.setattr(hub_module, "TIMEOUT", 0.05)
        assert "cannot be reached (TimeoutError: timed out)" in refusal("org/tiny")


def test_something_else_than_a_hub_is_told_from_one(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repo, "commit", lambda self, revision: "")
    monkeypatch.setattr(Repo, "folder", lambda self, commit: self.revisions["main"])
    assert "is not a model hub; check HF_ENDPOINT and proxy" in refusal("org/tiny")


@pytest.mark.parametrize("way", ["offline", "unreachable", "gated", "closed", "down"])
def test_a_cached_copy_serves_when_the_hub_does_not(
    hub: HubServer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load("org/tiny@step10")
    repo = hub.repos["org/tiny"]
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif way == "unreachable":
        address = f"http://127.0.0.1:{_closed_port()}"
        use_hub(monkeypatch, address, Path(constants.HF_HUB_CACHE))
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub was asked again"))
    elif way in ("gated", "closed"):
        monkeypatch.setattr(repo, way, True)
    else:
        monkeypatch.setattr(repo, "status", 503)
    after = load("org/tiny@step10")
    assert after.revision == before.revision
    assert after.tokenizer is not None
    assert torch.equal(logits(after), logits(before))


def test_offline_without_a_copy_says_what_is_missing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_spec(parse_spec("org/tiny"))
    load("org/sharded")
    load("org/pickle", allow_pickle=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert "switched off (HF_HUB_OFFLINE), and no copy of it is in the cache" in refusal("tiny")
    assert "no copy of it at revision 'step10' is in the cache" in refusal("org/tiny@step10")
    assert "the copy in the cache has no weights that can be used" in refusal("org/tiny")
    assert "has no weights that can be used" in refusal("org/pickle")
    check_spec(parse_spec("org/pickle"), allow_pickle=True)
    check_spec(parse_spec("org/sharded"))
    next(Path(constants.HF_HUB_CACHE).rglob("model-00002-*.safetensors")).unlink()
    assert "the copy in the cache is incomplete: model-00002-" in refusal("org/sharded")
    assert hub.requests == []


def failure(text: str, **options: Any) -> str:
    """Of a model that is found and cannot be opened."""
    with pytest.raises(ModelError) as caught:
        load(text, **options)
    message = str(caught.value)
    assert message.startswith(f"model {text!r}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("text", ["org/tiny", "org/sharded"])
def test_half_sent_weights_are_an_incomplete_download(
    hub: HubServer, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries of the hub's library
    monkeypatch.setattr(hub.repos[text], "cut", True)
    told = failure(text)
    assert "incomplete download of model" in told and told.endswith("; run again")
    monkeypatch.setattr(hub.repos[text], "cut", False)
    load(text)


def test_a_limit_while_a_model_is_opened_is_told_and_loses_no_tokenizer(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub was asked again"))
    repo, spec = hub.repos["org/tiny"], parse_spec("org/tiny")
    found = check_spec(spec)
    assert isinstance(found, Found)
    for late in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        monkeypatch.setattr(repo, "limited", late)
        with pytest.raises(ModelError, match="limits how often it is asked"):
            load_parts(spec, found=found, device="cpu")
    monkeypatch.setattr(repo, "limited", "")
    assert load_parts(spec, found=found, device="cpu").tokenizer is not None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "120"}, "run again in 120 seconds"),
        (
            {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "run again after Wed, 21 Oct 2026 07:28:00 GMT",
        ),
        ({"RateLimit": '"api";r=0;t=55'}, "run again in 55 seconds"),
        ({"Retry-After": "\x1b[1m"}, "run again later"),
        ({}, "run again later"),
    ],
)
@pytest.mark.parametrize("files", [False, True])
def test_a_rate_limit_says_how_long_to_wait_and_is_not_waited_for(
    hub: HubServer,
    headers: dict[str, str],
    wait: str,
    files: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub was asked again"))
    repo = hub.repos["org/tiny"]
    monkeypatch.setattr(repo, "limited" if files else "status", "config.json" if files else 429)
    monkeypatch.setattr(repo, "headers", headers)
    told = refusal("org/tiny")
    assert f"{hub.endpoint} limits how often it is asked (status 429): {wait}" in told
    assert "no copy of it is in the cache" in told and ("config.json" in told) == files
    if not files:
        assert "limits how often" in refusal("org/tiny@*")


def test_a_flipped_bit_on_the_way_is_noticed_until_the_file_is_gone(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub.repos["org/tiny"], "flipped", True)
    options = {"cache_dir": tmp_path / "kept"}
    told = failure("org/tiny", **options)
    assert "model.safetensors was damaged on the way or on the disk: its SHA-256 is not" in told
    monkeypatch.setattr(hub.repos["org/tiny"], "flipped", False)
    assert failure("org/tiny", **options) == told
    (blob,) = re.findall(r"delete (\S+) and run again", told)
    Path(blob).unlink()
    load("org/tiny", **options)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    content = Path(blob).read_bytes()
    Path(blob).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert failure("org/tiny", **options) == told


@pytest.mark.parametrize("way", ["elsewhere", "moved"])
def test_a_token_goes_to_the_hub_alone(
    hub: HubServer, repos: dict[str, Repo], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer({"org/tiny": Repo(repos["org/tiny"].revisions)}) as other:
        monkeypatch.setattr(hub.repos["org/tiny"], way, other.endpoint)
        if way == "elsewhere":
            load("org/tiny")
        with contextlib.suppress(SpecError):
            check_spec(parse_spec("org/tiny"))
        with contextlib.suppress(SpecError):
            check_spec(parse_spec("org/tiny@*"))
        assert other.requests and other.tokens == set()
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("kept", [False, True])
def test_a_hub_that_is_switched_off_is_one_message_of_the_command(
    repos: dict[str, Repo], tmp_path: Path, kept: bool
) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "icl_bench.cli", "run", "org/tiny", f"--suite={SUITE}"]
    with HubServer(repos) as server:
        environment["HF_ENDPOINT"] = server.endpoint
        code = "from icl_bench.models.opening.loading import load_parts as l\n"
        code += "from icl_bench.models.sources.parsing import parse_spec as p\nl(p('org/tiny'))"
        if kept:
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        server.requests.clear()
        environment["HF_HUB_OFFLINE"] = "1"
        (tmp_path / SUITE).write_text(
            "icl_suite: 1\nname: s\nmeasure:\n  r: {probe: induction, sequences: 2, period: 6}\n"
            "checks: [{id: c, on: r, metric: induction_max, at_least: -1}]\n"
        )
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert server.requests == []
    if kept:
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
        assert (tmp_path / "reports" / "org-tiny" / "results.json").is_file()
    else:
        assert done.returncode == 4 and done.stdout == "" and done.stderr.count("\n") == 1
        assert "the hub is switched off (HF_HUB_OFFLINE), and no copy of it" in done.stderr


SUITE = "s.yaml"
SCRIPT = """
import json, sys
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.parsing import parse_spec
parts = load_parts(parse_spec("org/tiny@step10"), device="cpu")
print(json.dumps([parts.revision, parts.tokenizer_note]))
"""


def test_the_environment_chooses_the_hub_and_loading_is_silent(
    repos: dict[str, Repo], tmp_path: Path
) -> None:
    with HubServer(repos) as server:
        environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path)}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [repos["org/tiny"].commit("step10"), None]
