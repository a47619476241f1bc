"""A hub on the loopback interface: serves folders by the hub's file protocol.

Only what loading a model needs: `HEAD` and `GET /REPO/resolve/REVISION/FILE`, and the few
`/api/models/...` addresses that the hub's client asks for on the way.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, TracebackType
from urllib.parse import unquote, urlsplit

_RESOLVE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(
    r"/api/models/(?P<repo>.+?)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?"
)

_REFS = re.compile(r"/api/models/(?P<repo>.+)/refs")


@dataclass
class Repo:
    """One repository: its revisions, each a folder, and whether it can be read.

    Args:
        revisions: branch or tag -> folder.
        gated: answer 401 to everything.
        closed: answer 401 to what asks for a file, as the hub does where terms were not accepted.
        status: answer everything with this status instead, e.g. 503.
        headers: what is sent along with that status.
        cut: answer a GET of weights with half of them, and one of the rest with nothing.
        limited: the file that is answered with status 429.
        flipped: change a bit of weights on the way.
        elsewhere: address of another host, which files are fetched from.
        moved: address of another host, which everything is redirected to.
    """

    revisions: dict[str, Path]
    gated: bool = False
    closed: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    limited: str = ""
    flipped: bool = False
    elsewhere: str | None = None
    moved: str | None = None

    def commit(self, revision: str) -> str | None:
        """Return the made-up commit hash of a revision, or None when there is none."""
        for name, folder in self.revisions.items():
            commit = hashlib.sha1(f"{name} {folder}".encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def folder(self, commit: str) -> Path:
        """Return the folder of a commit."""
        return next(f for name, f in self.revisions.items() if self.commit(name) == commit)


@dataclass
class HubServer:
    """Serves repositories until the `with` block ends.

    Args:
        repos: repository id -> repository.
        requests: every request so far, `METHOD PATH`.
        tokens: what the requests gave to be let in.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The address to set as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self._fail(404, "EntryNotFound")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server_hub.requests.append(f"{self.command} {path}")
        if token := self.headers.get("Authorization"):
            self.server_hub.tokens.add(token)
        match = _REFS.fullmatch(path) or _RESOLVE.fullmatch(path) or _API.fullmatch(path)
        repo = self.server_hub.repos.get(match["repo"]) if match else None
        if match is None or repo is None:
            return self._fail(404, "RepoNotFound")
        if repo.status is not None:
            return self._fail(repo.status, more=repo.headers)
        if match.re is _RESOLVE and match["file"] == repo.limited:
            return self._fail(429, more=repo.headers)
        if repo.moved:
            return self._fail(302, more={"Location": repo.moved + self.path})
        if repo.gated or (repo.closed and match.re is _RESOLVE):
            return self._fail(401, "GatedRepo")
        if match.re is _REFS:
            return self._list_refs(repo, body)
        commit = repo.commit(match["revision"] or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        folder = repo.folder(commit)
        if match.re is _API:
            return self._describe(match, folder, commit, body)
        file = folder / match["file"]
        if not file.is_file():
            return self._fail(404, "EntryNotFound", commit)
        content = file.read_bytes()
        large = {}
        if file.suffix == ".safetensors":
            # As of what the hub stores outside of git: the file's name in the cache.
            digest = hashlib.sha256(content).hexdigest()
            large = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            if repo.elsewhere:
                place = {"Location": repo.elsewhere + self.path, "X-Repo-Commit": commit}
                return self._fail(302, more={**large, **place})
            if repo.flipped:
                content = content[:-1] + bytes([content[-1] ^ 1])
        cut = repo.cut and bool(large) and body
        return self._send(content, commit, body, "application/octet-stream", large, cut)

    def _list_refs(self, repo: Repo, body: bool) -> None:
        """Half of the revisions are branches, half are tags."""
        names = list(repo.revisions)
        content = {
            kind: [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": repo.commit(name)}
                for name in half
            ]
            for kind, half in (("branches", names[::2]), ("tags", names[1::2]))
        }
        self._send(json.dumps({**content, "converts": []}).encode(), "", body, "application/json")

    def _describe(self, match: re.Match[str], folder: Path, commit: str, body: bool) -> None:
        names = sorted(path.name for path in folder.iterdir())
        content: object = {
            "id": match["repo"],
            "sha": commit,
            "siblings": [{"rfilename": name} for name in names],
        }
        if match["what"] == "tree":
            if match["file"]:
                return self._fail(404, "EntryNotFound", commit)
            content = [
                {"type": "file", "path": n, "oid": "0" * 40, "size": (folder / n).stat().st_size}
                for n in names
            ]
        self._send(json.dumps(content).encode(), commit, body, "application/json")

    def _send(
        self,
        content: bytes,
        commit: str,
        body: bool,
        kind: str,
        more: Mapping[str, str] = MappingProxyType({}),
        cut: bool = False,
    ) -> None:
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        whole, digest = len(content), hashlib.sha1(content).hexdigest()
        if asked:
            start, status = int(asked[1]), 206
            content = content[start : int(asked[2]) + 1 if asked[2] else None]
        self.send_response(status)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{whole}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", commit)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.wfile.write(b"" if asked else content[: len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content)

    def _fail(
        self,
        status: int,
        code: str | None = None,
        commit: str | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()
