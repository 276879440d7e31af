"""The part of the Hugging Face hub that its client asks when it downloads, on 127.0.0.1."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote

COMMIT = "c" * 40


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """Repositories as {id: {path: content}} with branch main; .safetensors files are kept by a server of their own.

    `requests` lists what was asked. `faults` maps a path to what to do, once each, in place of serving its content:
    a handler's method may break off or answer otherwise.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, list[Callable[["Storage", bytes], None]]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, repository: str, folder: Path, *, prefix: str = "") -> None:
        """Publish all files of a folder."""
        files = self.repositories.setdefault(repository, {})
        for path in folder.rglob("*"):
            if path.is_file():
                files[prefix + path.relative_to(folder).as_posix()] = path.read_bytes()

    def content_of(self, checksum: str) -> tuple[str, bytes]:
        """Path and content by sha256."""
        for files in self.repositories.values():
            for path, content in files.items():
                if hashlib.sha256(content).hexdigest() == checksum:
                    return path, content
        raise KeyError(checksum)

    def fetched(self) -> set[str]:
        """The paths whose content was asked for, as repository/path."""
        return {request.path for request in self.requests if request.method == "GET"}

    def __enter__(self) -> "FakeHub":
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (Resolve, Storage)]
        for server in self._servers:
            server.hub = self  # type: ignore[attr-defined]
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None: ...

    def note(self, path: str) -> None:
        headers = self.headers
        self.hub.requests.append(Request(self.command, path, headers["Range"], headers["Authorization"]))

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class Resolve(Handler):
    """/org/name/resolve/revision/path: small files themselves, large ones by redirection, as the hub does."""

    def do_HEAD(self) -> None:
        parts = self.path.removeprefix("/").split("/", 4)
        if len(parts) < 5 or parts[2] != "resolve":
            self.answer(404, {})
            return
        org, name, _, revision, path = parts
        repository, revision, path = f"{org}/{name}", unquote(revision), unquote(path)
        self.note(f"{repository}/{path}")
        files = self.hub.repositories.get(repository)
        commit = self.hub.commits.get(revision, revision if revision in self.hub.commits.values() else None)
        if repository in self.hub.refusals:
            status, code = self.hub.refusals[repository]
            self.answer(status, {"X-Error-Code": code} if code else {})
        elif files is None:
            self.answer(401, {"X-Error-Code": "RepoNotFound"})
        elif commit is None:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif path not in files:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif path.endswith(".safetensors"):
            checksum = hashlib.sha256(files[path]).hexdigest()
            linked = {"X-Linked-Etag": f'"{checksum}"', "X-Linked-Size": str(len(files[path]))}
            self.answer(302, {"X-Repo-Commit": commit, "Location": f"{self.hub.storage}/{checksum}", **linked})
        else:
            etag = f'"{git_blob_id(files[path])}"'
            body = files[path]
            self.answer(200, {"X-Repo-Commit": commit, "ETag": etag, "Content-Length": str(len(body))}, body)

    do_GET = do_HEAD  # noqa: N815 - the server asks for methods of these names


class Storage(Handler):
    """/sha256: content, whole or from the byte that a Range header names."""

    def do_GET(self) -> None:
        path, content = self.hub.content_of(self.path.removeprefix("/"))
        self.note(path)
        if faults := self.hub.faults.get(path):
            faults.pop(0)(self, content)
            return
        self.serve(content)

    def serve(self, content: bytes) -> None:
        if wanted := self.headers["Range"]:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            part = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206, {"Content-Range": part}, content[start:])
        else:
            self.answer(200, {}, content)


def break_off(storage: Storage, content: bytes) -> None:
    """Send half of what is announced, then hang up."""
    storage.send_response(200)
    storage.send_header("Content-Length", str(len(content)))
    storage.end_headers()
    storage.wfile.write(content[: len(content) // 2])
    storage.wfile.flush()
    storage.close_connection = True


def unavailable(storage: Storage, content: bytes) -> None:
    """Answer that the storage is down."""
    storage.answer(503, {})


def damaged(storage: Storage, content: bytes) -> None:
    """Serve other bytes of the same number."""
    storage.serve(content[:-1] + bytes([content[-1] ^ 1]))
