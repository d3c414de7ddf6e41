"""A hub of the tests' own: a local HTTP server with the hub's endpoints, headers, refusals and bad days.

It knows nothing of our code. What it answers follows huggingface_hub's client and the hub's documented API.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.stand_in import GOOD_TOKEN, Fault, Hub, Repo, Request, git_hash, is_large


@contextmanager
def standing_hub() -> Iterator[Hub]:
    """A hub on a free port, until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    storage = _Server(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", f"http://localhost:{storage.server_port}/storage")
    server.hub = storage.hub = hub
    threads = [threading.Thread(target=one.serve_forever, args=(0.02,)) for one in (server, storage)]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        for one in (server, storage):
            one.shutdown()
            one.server_close()  # waits for the threads of its requests
        for thread in threads:
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    # One request a connection: a client that keeps one open would keep its thread.
    protocol_version = "HTTP/1.0"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        address = urlsplit(self.path)
        self.route = unquote(address.path)
        self.query = parse_qs(address.query)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = self.headers.get("Host") or ""
        agent = self.headers.get("User-Agent") or ""
        self.hub.requests.append(
            Request(self.command, host, self.route, self.headers.get("Range"), token, agent)
        )
        self.token = token
        self.fault = self.hub.fault_of(self.route)
        if self.fault is not None and self.fault.status is not None:
            headers = {"Retry-After": self.fault.retry_after} if self.fault.retry_after else {}
            self._json(self.fault.status, {"error": "a bad day"}, headers)
        elif token in self.hub.bad_tokens:
            self._json(401, {}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.route.startswith("/storage/"):
            self._storage()
        elif self.route.startswith("/api/"):
            self._api()
        else:
            self._resolve()

    # ------------------------------------------------------------------------------ the API

    def _api(self) -> None:
        words = self.route.strip("/").split("/")[1:]
        if words == ["models"]:
            self._json(200, self._search())
        elif words == ["whoami-v2"]:
            known = self.token == GOOD_TOKEN
            self._json(200 if known else 401, {"name": "tester", "orgs": []} if known else {"error": "no"})
        elif words == ["repos", "create"]:
            self._create()
        elif words == ["validate-yaml"]:
            self._json(200, {"errors": [], "warnings": []})
        elif words[0] == "models" and len(words) >= 3:
            self._model_api("/".join(words[1:3]), words[3:])
        else:
            self._json(404, {"error": "no such endpoint"})

    def _model_api(self, name: str, rest: list[str]) -> None:
        if name in self.hub.renamed:
            to = self.route.replace(name, self.hub.renamed[name], 1)
            query = urlsplit(self.path).query
            self._headers(307, {"Location": to + (f"?{query}" if query else ""), "Content-Length": "0"})
            return
        repo = self._repo(name)
        if repo is None:
            return
        if rest[:1] == ["refs"]:
            tips = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.branches.items()
            ]
            self._json(200, {"branches": tips, "tags": [], "converts": []})
        elif rest[:1] == ["commits"]:
            self._json(200, [_commit_info(one) for one in reversed(repo.commits)])
        elif rest[:1] in (["preupload"], ["commit"]):
            self._upload(name, rest[0])
        elif rest[:1] == ["tree"] and (commit := repo.commit_of(rest[1])):
            self._json(200, [_tree_entry(path, data) for path, data in repo.commits[commit].items()])
        elif rest[:1] in ([], ["revision"]):
            self._model_info(name, repo, "/".join(rest[1:]) or "main")
        else:
            self._json(404, {"error": "no such endpoint"})

    def _model_info(self, name: str, repo: Repo, revision: str) -> None:
        commit = repo.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = []
        for path, data in repo.commits[commit].items():
            one: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                size = self.hub.claimed_sizes.get(path, len(data))
                one |= {"size": size, "blobId": git_hash(data)}
                if is_large(data):
                    sha = hashlib.sha256(data).hexdigest()
                    one["lfs"] = {"sha256": sha, "size": size, "pointerSize": 130}
            siblings.append(one)
        facts = {"id": name, "modelId": name, "sha": commit, "gated": repo.gated, "private": repo.private}
        self._json(200, facts | {"siblings": siblings, "tags": [], "downloads": 0})

    def _search(self) -> list[dict[str, Any]]:
        words = self.query.get("search", [""])[0].casefold()
        author = self.query.get("author", [""])[0]
        found = [
            name
            for name, repo in self.hub.repos.items()
            if words in name.casefold() and name.startswith(author) and not repo.private
        ]
        return [{"id": name, "modelId": name} for name in found]

    # ----------------------------------------------------------------------------- the files

    def _resolve(self) -> None:
        words = self.route.strip("/").split("/")
        if len(words) < 5 or words[2] != "resolve":
            self._json(404, {"error": "no such page"})
            return
        name, revision, path = "/".join(words[:2]), words[3], "/".join(words[4:])
        repo = self._repo(name)
        if repo is None:
            return
        if repo.gated and self.token not in self.hub.allowed:
            self._refuse(403 if self.token else 401, "GatedRepo", f"Access to model {name} is restricted")
            return
        commit = repo.commit_of(revision)
        data = repo.commits.get(commit or "", {}).get(path)
        if commit is None or data is None:
            self._refuse(404, "RevisionNotFound" if commit is None else "EntryNotFound", "not here", commit)
            return
        length = len(data) if self.fault is None or self.fault.announce is None else self.fault.announce
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_large(data):
            sha = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Size": str(length), "X-Linked-Etag": f'"{sha}"', "ETag": '"pointer"'}
            location = f"{self.hub.storage_url}/{sha}/{path}?signature=s"
            self._headers(302, headers | {"Location": location, "Content-Length": "0"})
            return
        etag = self.hub.etags.get(path, git_hash(data))
        self._body(data, headers | {"ETag": f'"{etag}"'}, length)

    def _storage(self) -> None:
        sha, path = self.route.removeprefix("/storage/").split("/", 1)
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                data = files.get(path)
                if data is not None and hashlib.sha256(data).hexdigest() == sha:
                    length = None if self.fault is None else self.fault.announce
                    self._body(data, {"ETag": f'"{sha}"'}, len(data) if length is None else length)
                    return
        self._json(403, {"error": "signature"})

    def _body(self, data: bytes, headers: dict[str, str], length: int) -> None:
        fault = self.fault or Fault()
        data = fault.content if fault.content is not None else data
        start, asked = 0, self.headers.get("Range")
        if asked and not fault.ignore_range:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                self._headers(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._headers(
            206 if "Content-Range" in headers else 200, headers | {"Content-Length": str(length - start)}
        )
        if self.command != "HEAD":
            self._send(data[start:], fault)

    def _send(self, data: bytes, fault: Fault) -> None:
        if fault.hold_after is not None:
            self.wfile.write(data[: fault.hold_after])
            self.wfile.flush()
            self.hub.holding.set()
            self.hub.release.wait(60)
            self.wfile.write(data[fault.hold_after :])
        else:
            self.wfile.write(data if fault.cut_after is None else data[: fault.cut_after])

    # ------------------------------------------------------------------------------- uploads

    def _create(self) -> None:
        if self.token != GOOD_TOKEN:
            self._json(401, {"error": "Invalid username or password."})
            return
        asked = json.loads(self.body)
        self.hub.created.append(asked)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if name in self.hub.repos:
            self._json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.add(name, {".gitattributes": b""}, private=bool(asked.get("private")))
        self._json(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _upload(self, name: str, what: str) -> None:
        if what == "preupload":
            files = json.loads(self.body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            self._json(200, {"files": modes})
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        self.hub.uploads.append({"name": name, "lines": lines})
        oid = hashlib.sha1(self.body).hexdigest()
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._json(200, {"commitUrl": url, "commitOid": oid, "pullRequestUrl": None})

    # -------------------------------------------------------------------------------- answers

    def _repo(self, name: str) -> Repo | None:
        """The repository, or None after the refusal was sent, which for a private one is that of none."""
        repo = self.hub.repos.get(name)
        if repo is not None and repo.disabled:
            self._headers(
                403, {"X-Error-Message": "Access to this resource is disabled.", "Content-Length": "0"}
            )
            return None
        if repo is None or (repo.private and self.token not in {*self.hub.allowed, GOOD_TOKEN}):
            if self.token is None:
                self._json(401, {"error": "Invalid username or password."})
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._json(status, {"error": message}, headers | ({"X-Repo-Commit": commit} if commit else {}))

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self._headers(
            status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        if self.command != "HEAD":
            self.wfile.write(data)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _tree_entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if is_large(data):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _commit_info(commit: str) -> dict[str, Any]:
    return {"id": commit, "title": "t", "message": "m", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
