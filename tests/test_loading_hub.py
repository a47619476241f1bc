"""Hub ids, against a hub on the loopback interface."""

from __future__ import annotations

import json
import os
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

from icl_bench.errors import SpecError
from icl_bench.models.opening.loading import LoadedParts, load_parts
from icl_bench.models.sources import hub as hub_module
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


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
