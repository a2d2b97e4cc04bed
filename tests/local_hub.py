"""A small Hugging Face Hub on loopback, for huggingface_hub's own client: repositories in memory, and faults on demand.

It serves what the client uses for reading and writing models: model info, HEAD and GET of resolve with etags and
ranges, creating repositories and branches, YAML validation, preupload, LFS batch, upload and verify, and
commits. Large files are served by a second server at another port, as by the Hub's CDN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_writer"
READER = "hf_of_a_reader"
"""Tokens that are known; the second may read what is private, but neither write nor see what is gated."""


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        listing = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        oid = hashlib.sha1(json.dumps([listing, len(self.commits)]).encode()).hexdigest()
        self.commits[oid], self.refs[branch] = dict(files), oid
        return oid


@dataclass
class Fault:
    """What goes wrong with requests of which "METHOD /path" matches: an HTTP status, or something about the body.

    drop: the connection ends in the middle of it. stall: it waits there for `released`. short: fewer bytes, properly
    announced. spoil: a bit is flipped. huge: HEAD announces a terabyte. etag, commit: it is a path.
    """

    pattern: str
    kind: str | int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class LocalHub:
    """The two servers and what they know; use as a context."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.others: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.hub, self.cdn = _server(_Hub, self), _server(_Files, self)
        self.endpoint = f"http://127.0.0.1:{self.hub.server_address[1]}"
        self.files = f"http://127.0.0.1:{self.cdn.server_address[1]}"

    def __enter__(self) -> LocalHub:
        for server in (self.hub, self.cdn):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults:
            fault.released.set()
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    @contextmanager
    def fault(self, pattern: str, kind: str | int, times: int = 1, **headers: str) -> Iterator[Fault]:
        fault = Fault(pattern, kind, times, {name.replace("_", "-"): value for name, value in headers.items()})
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.released.set()
            self.faults.remove(fault)

    def seen(self, pattern: str) -> list[tuple[str, str, dict[str, str]]]:
        """The requests so far of which "METHOD /path" matches."""
        return [one for one in self.requests if re.search(pattern, f"{one[0]} {one[1]}")]


def _server(handler: type[BaseHTTPRequestHandler], state: LocalHub) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"state": state}))
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: LocalHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_all(self) -> None:
        self.route = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.state.lock:
            self.state.requests.append(
                (self.command, self.route, {name.lower(): value for name, value in self.headers.items()})
            )
            self.fault = next((one for one in self.state.faults if self.meets(one)), None)
            if self.fault:
                self.fault.seen += 1
        if self.fault and isinstance(self.fault.kind, int):
            self.answer(self.fault.kind, {"error": "an injected fault"}, self.fault.headers)
        else:
            self.respond()

    do_GET = do_HEAD = do_POST = do_PUT = handle_all

    def meets(self, fault: Fault) -> bool:
        return fault.seen < fault.times and re.search(fault.pattern, f"{self.command} {self.route}") is not None

    def respond(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_file(self, data: bytes, headers: dict[str, str]) -> None:
        """All of a file or the range that is asked for, as the fault of this request has it."""
        kind, whole = self.fault.kind if self.fault else None, len(data)
        if kind == "spoil":
            data = data[: whole // 2] + bytes([data[whole // 2] ^ 1]) + data[whole // 2 + 1 :]
        if kind == "short":
            data = data[:-7]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if found:
            start = int(found[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            data = data[start:]
        else:
            self.send_response(200)
        length = 1 << 40 if kind == "huge" else len(data)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind not in ("drop", "stall"):
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        assert self.fault
        self.fault.reached.set()
        if kind == "stall":
            self.fault.released.wait(60)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


class _Files(_Handler):
    """Large files by their sha256, and others by their name; nobody is asked who they are."""

    def respond(self) -> None:
        data = self.state.objects.get(self.route[1:], self.state.others.get(self.route[1:]))
        if data is None:
            self.answer(404, {"error": "no such object"})
        else:
            self.send_file(data, {"ETag": f'"{self.route[1:]}"'})


class _Hub(_Handler):
    def respond(self) -> None:
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", lambda: self.answer(200, {"errors": [], "warnings": []})),
            (r"GET /api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?", self.info),
            (r"POST /api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>.+)", self.branch),
            (r"POST /api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>.+)", self.preupload),
            (r"POST /api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>.+)", self.commit),
            (r"POST /(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", self.upload),
            (r"POST /lfs/verify", self.verify),
            (r"(HEAD|GET) /(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>.+)/(?P<file>[^/]+)", self.resolve),
        ]
        for pattern, serve in routes:
            found = re.fullmatch(pattern, f"{self.command} {self.route}")
            if found:
                arguments = found.groupdict()
                if "name" in arguments:
                    repository = self.permitted(arguments.pop("name"), writing=self.command == "POST")
                    if repository is not None:
                        serve(repository, **arguments)
                else:
                    serve(**arguments)
                return
        self.answer(404, {"error": f"nothing at {self.route}"})

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **headers})

    def permitted(self, name: str, writing: bool) -> Repository | None:
        repository = self.state.repositories.get(name)
        if self.token not in (None, TOKEN, READER):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and self.token is None):
            self.refuse(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        elif writing and self.token != TOKEN:
            self.refuse(403, "", "You don't have the rights to write here")
        elif repository.gated and self.token != TOKEN and "/api/" not in self.route:
            self.refuse(401 if self.token is None else 403, "GatedRepo", "Access to this model is restricted.")
        else:
            return repository
        return None

    def files(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = repository.refs.get(revision, revision)
        if oid in repository.commits:
            return oid, repository.commits[oid]
        self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.token != TOKEN:
            self.refuse(401, "", "Invalid username or password.")
        elif name in self.state.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": f"{self.state.endpoint}/{name}"})
        else:
            private = asked.get("private", asked.get("visibility") == "private")
            made = self.state.repositories[name] = Repository(bool(private))
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            self.answer(200, {"url": f"{self.state.endpoint}/{name}", "name": name, "id": name})

    def branch(self, repository: Repository, branch: str) -> None:
        if branch in repository.refs:
            self.answer(409, {"error": "Reference already exists"})
        else:
            repository.refs[branch] = repository.refs["main"]
            self.answer(200, {})

    def info(self, repository: Repository, revision: str | None) -> None:
        found = self.files(repository, revision or "main")
        if found:
            siblings = [{"rfilename": name} for name in found[1]]
            name = next(key for key, value in self.state.repositories.items() if value is repository)
            self.answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": []})

    def preupload(self, repository: Repository, revision: str) -> None:
        found = self.files(repository, revision)
        if found:
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": one["path"], "uploadMode": modes[one["path"].endswith(".safetensors")], "shouldIgnore": False}
                for one in json.loads(self.body)["files"]
            ]
            self.answer(200, {"files": files})

    def batch(self, repository: Repository) -> None:
        objects = [
            {**one, "actions": {
                "upload": {"href": f"{self.state.endpoint}/lfs/{one['oid']}"},
                "verify": {"href": f"{self.state.endpoint}/lfs/verify"},
            }} if one["oid"] not in self.state.objects else one
            for one in json.loads(self.body)["objects"]
        ]  # fmt: skip
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer(400, {"error": "the digest is another"})
        else:
            self.state.objects[oid] = self.body
            self.answer(200, {})

    def verify(self) -> None:
        asked = json.loads(self.body)
        there = len(self.state.objects.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if there else 404, {})

    def commit(self, repository: Repository, revision: str) -> None:
        found = self.files(repository, revision)
        if not found:
            return
        files = dict(found[1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        proposed = "create_pr=1" in self.path
        oid = repository.commit(files, "refs/pr/1" if proposed else revision)
        name = next(key for key, value in self.state.repositories.items() if value is repository)
        place = f"{self.state.endpoint}/{name}"
        pull = {"pullRequestUrl": f"{place}/discussions/1"} if proposed else {}
        self.answer(200, {"commitUrl": f"{place}/commit/{oid}", "commitOid": oid, **pull})

    def resolve(self, repository: Repository, revision: str, file: str) -> None:
        found = self.files(repository, revision)
        if not found:
            return
        oid, files = found
        if file not in files:
            self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": oid})
            return
        data, headers = files[file], {"X-Repo-Commit": oid}
        kind = self.fault.kind if self.fault else None
        if kind in ("etag", "commit"):
            name = {"etag": "ETag", "commit": "X-Repo-Commit"}[kind]
            self.send_file(data, {**headers, "ETag": '"0"', name: "../../../../escaped"})
            return
        if not file.endswith(".safetensors"):
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self.send_file(data, {**headers, "ETag": f'"{digest}"'})
            return
        digest = hashlib.sha256(data).hexdigest()
        self.state.objects[digest] = data
        size = 1 << 40 if self.fault and self.fault.kind == "huge" else len(data)
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
        self.answer(302, {}, {**headers, "Location": f"{self.state.files}/{digest}"})
