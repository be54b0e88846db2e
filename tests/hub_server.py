"""A Hugging Face Hub on the loopback: what huggingface_hub asks of the real one to push and to pull, over HTTP."""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
KINDS = {"models": "", "spaces": "spaces/"}


@dataclass
class Repository:
    """commits: id → path → content, oldest first. tags: name → commit. private: for readers with the token alone."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        listed = repr([len(self.commits), sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())])
        commit = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[commit] = files
        return commit

    def find(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1]
        return self.tags.get(revision, revision if revision in self.commits else None)

    @property
    def newest(self) -> dict[str, bytes]:
        return list(self.commits.values())[-1]


class Hub(ThreadingHTTPServer):
    """repositories: 'models/owner/name' → Repository. requests: method, path and Range of each, in their order.

    cut: how often a download of a large *.safetensors file is cut before its last quarter; -1 is always. was_cut: set
    when it was. stall: if there is one, the connection first stays silent until it is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut, self.was_cut = 0, threading.Event()
        self.stall: threading.Event | None = None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def model(self, repo_id: str) -> Repository:
        return self.repositories[f"models/{repo_id}"]

    def fetched(self) -> set[str]:
        """Names of the files that were downloaded."""
        return {path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.route("HEAD")

    def do_GET(self) -> None:
        self.route("GET")

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.route("POST")

    def route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((method, path, self.headers.get("Range")))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if method == "POST" and not known:
            return self.fail(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            return self.create()
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        kinds = "|".join(KINDS)
        if match := re.fullmatch(rf"/api/({kinds})/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/(.+))?", path):
            kind, name, what, revision = match.groups()
        elif match := re.fullmatch(r"/(spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, what, revision = "spaces" if match[1] else "models", match[2], "resolve", match[3]
        else:
            return self.fail(404, "", f"no such page: {path}")
        repository = self.server.repositories.get(f"{kind}/{name}")
        if repository is None or (repository.private and not known):  # the real Hub does not tell one from the other
            return self.fail(404 if known else 401, "RepoNotFound", "Repository not found")
        commit = repository.find(revision or "main")
        if commit is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if what == "resolve":
            return self.send_file(method, files.get(match[4]), commit, match[4])
        if what == "tree":
            return self.answer([entry(path, content) for path, content in files.items()])
        if what == "preupload":
            asked = json.loads(self.body)["files"]
            return self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        if what == "commit":
            return self.commit(repository, files, f"{KINDS[kind]}{name}")
        siblings = [{"rfilename": path} for path in files]
        return self.answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def create(self) -> None:
        asked = json.loads(self.body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        if f"{kind}/{name}" in self.server.repositories:
            return self.answer({"url": f"{self.server.address}/{KINDS[kind]}{name}"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[f"{kind}/{name}"] = made = Repository(private)
        made.commit({".gitattributes": b""})
        self.answer({"url": f"{self.server.address}/{KINDS[kind]}{name}", "name": name})

    def commit(self, repository: Repository, files: dict[str, bytes], name: str) -> None:
        new = dict(files)
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "header" and value.get("parentCommit") not in (None, list(repository.commits)[-1]):
                return self.fail(412, "", "The repository has changed")
            if change["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            if change["key"] == "deletedFile":
                del new[value["path"]]
        made = repository.commit(new)
        self.answer({"commitUrl": f"{self.server.address}/{name}/commit/{made}", "commitOid": made, "success": True})

    def send_file(self, method: str, content: bytes | None, commit: str, path: str) -> None:
        if content is None:
            return self.fail(404, "EntryNotFound", "Entry not found")
        first = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{entry(path, content)["oid"]}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if method == "HEAD":
            return
        if self.server.cut and path.endswith(".safetensors") and len(content) > 1_000_000:
            self.server.cut -= self.server.cut > 0
            self.wfile.write(content[first : first + (len(content) - first) * 3 // 4])
            self.wfile.flush()
            self.server.was_cut.set()
            if self.server.stall:
                self.server.stall.wait(60)
            self.close_connection = True
            return
        self.wfile.write(content[first:])

    def answer(self, value, status: int = 200, **headers: str) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers.items():
            self.send_header(name.replace("_", "-"), content)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def fail(self, status: int, code: str, message: str) -> None:
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)


def call(arguments: list[str], environment: dict[str, str], folder: Path) -> None:
    """`iris …` in this new process, where the Hub's client is imported with this environment."""
    assert "huggingface_hub" not in sys.modules
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
    from app.cli import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def entry(path: str, content: bytes) -> dict:
    """A file as the Hub lists it; its id is git's."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}
