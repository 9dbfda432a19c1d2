"""A hub of one's own: what huggingface_hub asks of the real one, with its headers, and a record of every question."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SIGNATURE = "Expires=1&Signature=s1gnature"
LARGE = 4096
"""bytes from which on a file is behind a redirect, as with LFS"""
_RESOLVE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)/revision/(?P<revision>[^/?]+)")


@dataclass
class Repo:
    """``commits``: hash → file → content; ``refs``: branch → hash."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    status: int = 200
    """anything else is the answer to every question"""


@dataclass
class Hub:
    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """method, path without query, `Range` header"""
    tokens: list[tuple[str, str]] = field(default_factory=list)
    """path and `Authorization` header where one came along"""
    cut_after: dict[str, int] = field(default_factory=dict)
    """file → bytes after which its connection breaks, once"""

    def add(self, name: str, source: Path | dict[str, bytes], *, branch: str = "main", **extra: Any) -> str:
        """Put a directory or files up as the head of ``branch``; the commit."""
        files = source if isinstance(source, dict) else {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}
        commit = hashlib.sha1(repr(sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items())).encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}, **extra))
        repo.commits[commit] = files
        repo.refs[branch] = commit
        return commit

    def fetched(self, name: str | None = None) -> list[str]:
        """The files that were downloaded, of ``name`` or of all, in order."""
        return [path.rpartition("!")[2] for method, path, _ in self.asked if method == "GET" and "!" in path and path.startswith(f"/{name or ''}")]

    def forget(self) -> None:
        self.asked.clear()
        self.tokens.clear()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        if self.headers.get("Authorization"):
            self.hub.tokens.append((path, self.headers["Authorization"]))
        if found := _INFO.fullmatch(path):
            self.hub.asked.append((self.command, path, ""))
            self._info(found["repo"], found["revision"])
        elif found := _RESOLVE.fullmatch(path.removeprefix("/cdn")):
            self._file(found["repo"], found["revision"], found["file"], behind=path.startswith("/cdn"), query=query)
        else:
            # Once a process, newer releases of the hub's client look up which programs there are; here that is the tests' own process.
            if path != "/api/agent-harnesses":
                self.hub.asked.append((self.command, path, ""))
            self._error(404, "RepoNotFound")

    def _commit(self, name: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401, "RepoNotFound")
        elif repo.status != 200:
            self._error(repo.status, "")
        elif revision not in repo.refs and revision not in repo.commits:
            self._error(404, "RevisionNotFound")
        else:
            return repo, repo.refs.get(revision, revision)
        return None

    def _info(self, name: str, revision: str) -> None:
        if found := self._commit(name, revision):
            repo, commit = found
            raw = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in repo.commits[commit]]}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(raw).encode())

    def _file(self, name: str, revision: str, file: str, *, behind: bool, query: str) -> None:
        if not (found := self._commit(name, revision)):
            return
        repo, commit = found
        content = repo.commits[commit].get(file)
        if repo.gated:
            self._error(403, "GatedRepo")
        elif content is None:
            self.hub.asked.append((self.command, f"/{name}!{file}", ""))
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif len(content) >= LARGE and not behind:
            self.hub.asked.append((self.command, f"/{name}?{file}", ""))
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            location = f"{self.hub.address}/cdn/{name}/resolve/{commit}/{file}?{SIGNATURE}"
            self._send(302, {"X-Repo-Commit": commit, "Location": location, **linked}, b"")
        elif behind and query != SIGNATURE:
            self._error(403, "")
        else:
            self.hub.asked.append((self.command, f"/{name}!{file}", self.headers.get("Range", "")))
            self._content(file, content, commit)

    def _content(self, file: str, content: bytes, commit: str) -> None:
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if match:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cut_after.pop(file, None) if self.command == "GET" else None
        self._send(206 if match else 200, headers, content[start:], cut=cut)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {**({"X-Error-Code": code} if code else {}), **(headers or {})}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(2)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
