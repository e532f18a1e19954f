"""A local server that speaks as much of the Hub's protocol as huggingface_hub asks for, with faults on demand.

Repositories with branches, pull requests and their history; commits with a parent that must be the newest; LFS with
whole and multi-part uploads; files at a commit, big ones behind a redirect. Everything is in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from bgetune.export import push_hub
from tests.http_server import LocalHandler, LocalServer

TOKEN = "hf_TestTokenThatNobodyMaySee0123456789"
_BIG = re.compile(r".*\.(safetensors|pt|onnx|bin)")
_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_ROUTES = [
    (name, method, re.compile(pattern))
    for name, method, pattern in (
        ("create", "POST", "/api/repos/create"),
        ("validate", "POST", "/api/validate-yaml"),
        ("info", "GET", f"/api/models/{_REPO}(/revision/(?P<rev>[^/]+))?"),
        ("discussions", "GET", f"/api/models/{_REPO}/discussions"),
        ("history", "GET", f"/api/models/{_REPO}/commits/(?P<rev>[^/]+)"),
        ("tree", "GET", f"/api/models/{_REPO}/tree/(?P<rev>[^/]+)"),
        ("branch", "POST", f"/api/models/{_REPO}/branch/(?P<rev>[^/]+)"),
        ("preupload", "POST", f"/api/models/{_REPO}/preupload/(?P<rev>[^/]+)"),
        ("commit", "POST", f"/api/models/{_REPO}/commit/(?P<rev>[^/]+)"),
        ("batch", "POST", rf"/{_REPO}\.git/info/lfs/objects/batch"),
        ("upload", "PUT", "/storage/(?P<oid>[0-9a-f]{64})(/(?P<part>[0-9]+))?"),
        ("complete", "POST", "/storage/(?P<oid>[0-9a-f]{64})/complete"),
        ("verify", "POST", "/storage/(?P<oid>[0-9a-f]{64})/verify"),
        ("resolve", "HEAD", f"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
        ("resolve", "GET", f"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
        ("download", "GET", "/storage/(?P<oid>[0-9a-f]{64})"),
    )
]


@dataclass
class Fault:
    """What happens to requests named `at` instead of, or before, an answer.

    `at`: a name of `_ROUTES`. `skip`: this many go well first. `times`: this many fail then.
    """

    at: str
    status: int = 0
    times: int = 10**9
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    says: str = "no"
    echo: bool = False
    """Repeat the request's Authorization header and address in the answer."""
    cut: bool = False
    """Reset the connection in the middle of what is sent or asked for."""
    unheard: bool = False
    """Do what is asked, and reset the connection instead of saying so."""
    delay: float = 0.0
    garbled: bool = False
    """Answer with a byte changed."""
    overtaken: bool = False
    """Somebody else commits to the branch first."""


@dataclass
class Stored:
    """A file of a commit: its content, and whether it is an LFS object."""

    content: bytes
    big: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Change:
    """A commit."""

    title: str
    parent: str | None
    files: dict[str, Stored]


class Repo:
    """Its commits and where each branch and pull request is."""

    def __init__(self, private: bool) -> None:
        self.private, self.commits, self.heads = private, dict[str, Change](), dict[str, str]()
        self.closed: set[str] = set()  # pull requests
        self.commit("main", "initial commit", {".gitattributes": Stored(b"*.safetensors filter=lfs\n", False)}, None)

    def commit(self, ref: str, title: str, files: dict[str, Stored], parent: str | None) -> str:
        tree = sorted((name, file.sha256) for name, file in files.items())
        oid = hashlib.sha1(repr((title, parent, tree)).encode()).hexdigest()
        self.commits[oid] = Change(title, parent, files)
        self.heads[ref] = oid
        return oid

    def at(self, rev: str) -> str | None:
        """The commit that a branch, a pull request or a commit's own name means."""
        return self.heads.get(rev) or (rev if rev in self.commits else None)

    def files(self, rev: str = "main") -> dict[str, bytes]:
        oid = self.at(rev)
        return {name: file.content for name, file in self.commits[oid].files.items()} if oid else {}

    def titles(self, rev: str = "main") -> list[str]:
        """Of a branch's commits, newest first."""
        found: list[str] = []
        oid = self.at(rev)
        while oid is not None:
            found.append(self.commits[oid].title)
            oid = self.commits[oid].parent
        return found


class Answer(Exception):
    """What is sent back."""

    def __init__(self, status: int, body: Any = None, code: str | None = None, **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = headers
        if code is not None:
            headers["X-Error-Code"] = code


class FakeHub(LocalServer):
    """A context: `with FakeHub() as hub: ... hub.url`.

    Args:
        writes: organisations that the token may write to.
        part: bytes from which a big file is sent in parts of this size.
    """

    def __init__(self, writes: tuple[str, ...] = ("org",), part: int | None = None) -> None:
        super().__init__(_handler(self))
        self.token, self.writes, self.part = TOKEN, writes, part
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.storage_url = f"http://localhost:{self.port}"  # another host, as the Hub's storage is
        self.storage_saw_token = False

    def fault_for(self, name: str) -> Fault | None:
        with self._lock:
            self.calls[name] += 1
            for fault in self.faults:
                if fault.at == name:
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.times:
                        fault.times -= 1
                        return fault
        return None

    def answer(self, name: str, found: dict[str, str], query: dict[str, list[str]], head: Any, body: bytes) -> Answer:
        if name in ("upload", "complete", "download"):  # a signed address lets in
            self.storage_saw_token |= self.token in str(head)
        elif head.get("Authorization") != f"Bearer {self.token}":
            return Answer(401, {"error": f"Invalid credentials: {head.get('Authorization')}"})
        asked = json.loads(body) if body and name not in ("upload", "commit") else body
        with self._lock:
            return getattr(self, f"_{name}")(found, asked, query)

    def _repo(self, found: dict[str, str]) -> Repo:
        repo = self.repos.get(found["repo"])
        if repo is None:
            raise Answer(404, {"error": "Repository not found"}, code="RepoNotFound")
        return repo

    def _revision(self, found: dict[str, str]) -> tuple[Repo, str]:
        repo = self._repo(found)
        oid = repo.at(found.get("rev") or "main")
        if oid is None:
            raise Answer(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        return repo, oid

    def _may_write(self, name: str) -> None:
        if name.partition("/")[0] not in self.writes:
            raise Answer(403, {"error": "You don't have the rights to write there"})

    def _create(self, _: dict[str, str], asked: dict[str, Any], __: object) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        self._may_write(name)
        if name in self.repos:
            return Answer(409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"})
        self.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        return Answer(200, {"url": f"{self.url}/{name}", "id": name})

    def _validate(self, _: dict[str, str], asked: dict[str, Any], __: object) -> Answer:
        if re.search(r"^license: no-such", asked["content"], re.MULTILINE):
            return Answer(400, {"errors": [{"message": '"license" must be one of [mit, ...]'}], "warnings": []})
        return Answer(200, {"errors": [], "warnings": []})

    def _info(self, found: dict[str, str], *_: object) -> Answer:
        repo, oid = self._revision(found)
        files = [{"rfilename": name} for name in sorted(repo.commits[oid].files)]
        return Answer(200, {"id": found["repo"], "sha": oid, "private": repo.private, "siblings": files})

    def _discussions(self, found: dict[str, str], _: object, query: dict[str, list[str]]) -> Answer:
        """Open pull requests, one a page."""
        assert (query["type"], query["status"]) == (["pull_request"], ["open"])
        repo = self._repo(found)
        told = {"status": "open", "isPullRequest": True, "createdAt": "2026-01-01T00:00:00.000Z", "author": {}}
        told |= {"repo": {"name": found["repo"], "type": "model"}}
        refs = sorted(ref for ref in repo.heads if ref.startswith("refs/pr/") and ref not in repo.closed)
        rows = [{**told, "num": int(ref[8:]), "title": repo.commits[repo.heads[ref]].title} for ref in refs]
        page = int(query["p"][0])
        return Answer(200, {"discussions": rows[page : page + 1], "start": page, "count": len(rows)})

    def _history(self, found: dict[str, str], *_: object) -> Answer:
        repo, oid = self._revision(found)
        rows: list[dict[str, Any]] = []
        at: str | None = oid
        while at is not None:
            rows.append({"id": at, "authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""})
            at = repo.commits[at].parent
        return Answer(200, rows)

    def _tree(self, found: dict[str, str], *_: object) -> Answer:
        repo, oid = self._revision(found)
        rows = []
        for name, file in sorted(repo.commits[oid].files.items()):
            row: dict[str, Any] = {"type": "file", "path": name, "oid": file.git, "size": len(file.content)}
            if file.big:
                row["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
            rows.append(row)
        return Answer(200, rows)

    def _branch(self, found: dict[str, str], asked: dict[str, Any], __: object) -> Answer:
        self._may_write(found["repo"])
        repo = self._repo(found)
        if found["rev"] in repo.heads:
            return Answer(409, {"error": "Reference already exists"})
        start = repo.at(asked.get("startingPoint", "main"))
        if start is None or found["rev"].startswith("refs/"):
            return Answer(400, {"error": "Invalid reference"})
        repo.heads[found["rev"]] = start
        return Answer(200, {})

    def _preupload(self, found: dict[str, str], asked: dict[str, Any], query: dict[str, list[str]]) -> Answer:
        repo, oid = self._revision(found)
        if "create_pr" not in query:
            self._may_write(found["repo"])
        files = repo.commits[oid].files
        rows = []
        for file in asked["files"]:
            there = files.get(file["path"])
            big = _BIG.fullmatch(file["path"]) is not None
            known = None if there is None else there.sha256 if there.big else there.git
            mode = "lfs" if big else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return Answer(200, {"files": rows})

    def _batch(self, _: dict[str, str], asked: dict[str, Any], __: object) -> Answer:
        rows = []
        for each in asked["objects"]:
            row: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.storage:
                base = f"{self.url}/storage/{each['oid']}"
                place = f"{self.storage_url}/storage/{each['oid']}"
                upload: dict[str, Any] = {"href": f"{place}?X-Amz-Signature=secret"}
                if self.part is not None and each["size"] > self.part:
                    count = -(-each["size"] // self.part)
                    header = {str(i): f"{place}/{i}?X-Amz-Signature=secret" for i in range(1, count + 1)}
                    upload = {"href": f"{base}/complete", "header": {"chunk_size": str(self.part), **header}}
                row["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
            rows.append(row)
        return Answer(200, {"objects": rows, "transfer": "basic"})

    def _upload(self, found: dict[str, str], body: bytes, _: object) -> Answer:
        if found.get("part"):
            self.parts.setdefault(found["oid"], {})[int(found["part"])] = body
            return Answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        return self._store(found["oid"], body)

    def _complete(self, found: dict[str, str], asked: dict[str, Any], _: object) -> Answer:
        parts = self.parts.pop(found["oid"])
        assert [part["partNumber"] for part in asked["parts"]] == sorted(parts)
        return self._store(found["oid"], b"".join(parts[number] for number in sorted(parts)))

    def _store(self, oid: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != oid:
            return Answer(400, {"error": "content does not match its oid"})
        self.storage[oid] = content
        return Answer(200, {})

    def _verify(self, found: dict[str, str], asked: dict[str, Any], _: object) -> Answer:
        good = len(self.storage.get(found["oid"], b"")) == asked["size"]
        return Answer(200 if good else 404, {})

    def _commit(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Answer:
        repo, oid = self._revision(found)
        pull = "create_pr" in query
        if not pull:
            self._may_write(found["repo"])
        rows = [json.loads(line) for line in body.splitlines()]
        told = rows[0]["value"]
        if told.get("parentCommit") not in (None, oid):
            return Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.commits[oid].files)
        for row in rows[1:]:
            path = row["value"]["path"]
            if row["key"] == "file":
                files[path] = Stored(base64.b64decode(row["value"]["content"]), False)
            elif row["key"] == "lfsFile":
                if row["value"]["oid"] not in self.storage:
                    return Answer(400, {"error": f"LFS pointer of {path} points to an object that is not there"})
                files[path] = Stored(self.storage[row["value"]["oid"]], True)
            else:
                del files[path]
        number = sum(ref.startswith("refs/pr/") for ref in repo.heads) + 1
        ref = f"refs/pr/{number}" if pull else found["rev"]
        made = repo.commit(ref, told["summary"], files, oid)
        where = f"{self.url}/{found['repo']}"
        pull_url = f"{where}/discussions/{number}" if pull else None
        return Answer(200, {"commitUrl": f"{where}/commit/{made}", "commitOid": made, "pullRequestUrl": pull_url})

    def _resolve(self, found: dict[str, str], *_: object) -> Answer:
        repo, oid = self._revision(found)
        file = repo.commits[oid].files.get(found["path"])
        if file is None:
            return Answer(404, {"error": "Entry not found"}, code="EntryNotFound", X_Repo_Commit=oid)
        if not file.big:
            return Answer(200, file.content, X_Repo_Commit=oid, ETag=f'"{file.git}"')
        self.storage.setdefault(file.sha256, file.content)
        size, where = str(len(file.content)), f"{self.storage_url}/storage/{file.sha256}?X-Amz-Signature=secret"
        return Answer(302, b"", X_Repo_Commit=oid, X_Linked_ETag=f'"{file.sha256}"', X_Linked_Size=size, Location=where)

    def _download(self, found: dict[str, str], *_: object) -> Answer:
        return Answer(200, self.storage[found["oid"]])

    def overtake(self, found: dict[str, str]) -> None:
        """Somebody else adds a file of theirs to the branch."""
        with self._lock:
            repo = self.repos[found["repo"]]
            oid = repo.heads[found["rev"]]
            files = {**repo.commits[oid].files, f"LICENSE-{len(repo.commits)}": Stored(b"MIT", False)}
            repo.commit(found["rev"], "add a licence", files, oid)


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub in which nothing is yet, as the environment names it; waits are short, and files go by LFS."""
    no_wait = types.SimpleNamespace(sleep=lambda seconds: None)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", no_wait)
    monkeypatch.setattr(push_hub, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # CI sets it, so that no other test asks the real one
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def nothing_tells_the_token(folder: Path, *said: str) -> None:
    """In all that a run leaves and says, also where a server repeats it."""
    assert TOKEN not in "".join(said)
    for path in folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def _handler(hub: FakeHub) -> type[LocalHandler]:
    class Handler(LocalHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            hub.addresses.append(self.path)
            for name, method, pattern in _ROUTES:
                match = pattern.fullmatch(parts.path)
                if method == self.command and match is not None:
                    found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    self._answer(name, found, parse_qs(parts.query))
                    return
            self.body()
            self._say(Answer(404, {"error": f"the fake has no {self.command} {self.path}"}))

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def _answer(self, name: str, found: dict[str, str], query: dict[str, list[str]]) -> None:
            fault = hub.fault_for(name)
            if fault is not None and fault.cut and self.command in ("PUT", "POST"):
                self.rfile.read(max(1, int(self.headers.get("Content-Length") or 2) // 2))
                return self.reset()
            body = self.body()
            if fault is not None and fault.delay:
                hub._closing.wait(fault.delay)
            if fault is not None and fault.status:
                said = f"{fault.says} {self.headers.get('Authorization')} {self.path}" if fault.echo else fault.says
                return self._say(Answer(fault.status, {"error": said}, **fault.headers))
            if fault is not None and fault.overtaken:
                hub.overtake(found)
            try:
                answer = hub.answer(name, found, query, self.headers, body)
            except Answer as refused:
                answer = refused
            if fault is not None and fault.unheard:
                return self.reset()
            if fault is not None and fault.garbled and answer.body:
                answer.body = bytes([answer.body[0] ^ 1]) + answer.body[1:]
            return self._say(answer, half=fault is not None and fault.cut)

        def _say(self, answer: Answer, half: bool = False) -> None:
            start = 0
            if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start, answer.status = int(asked[1]), 206
                answer.headers["Content-Range"] = f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}"
            self.send(answer.status, answer.body[start:], answer.headers, half)

    return Handler
