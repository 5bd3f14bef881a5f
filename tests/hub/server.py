"""A Hub on the loopback: the part of the Hub's HTTP interface that pushing and fetching a model use.

Written from what `huggingface_hub` asks for. It answers as a Hub without Xet storage: large files go by LFS and are
given by a redirect to where their content lies. Every request is kept in `log`.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.repositories import Blob, Repository, is_large


@dataclass(frozen=True)
class Account:
    """Who a token belongs to, and what it may do."""

    name: str
    organisations: tuple[str, ...]
    writes: bool = True
    reads: bool = True


class Refusal(Exception):
    """An answer that is an error, as the Hub words it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code, self.message = status, code, message or code


class Hub(ThreadingHTTPServer):
    """The server and all it knows.

    Attributes:
        repositories: by id.
        accounts: by token.
        large: uploaded content by SHA-256.
        log: (method, path) of every request, in order.
        breaks: SHA-256 -> bytes after which the connection is cut, once.
        lost: SHA-256 of large files that the storage fails on.
        claims: path -> size in bytes that the listing states instead of the true one.
        down: whether every request is answered with 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.accounts: dict[str, Account] = {"secret": Account("tester", ("org",))}
        self.large: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.breaks: dict[str, int] = {}
        self.lost: set[str] = set()
        self.claims: dict[str, int] = {}
        self.down = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Where large files lie: another host, as far as the client can see, to which it must not send its token."""
        return f"http://localhost:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not this server's affair."""


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers until the block is left."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


Reply = tuple[int, Any, dict[str, str]]
ID = r"(?P<id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


class Handler(BaseHTTPRequestHandler):
    """One connection. Methods `on_...` answer what `ROUTES` sends them."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """The log is kept in memory."""

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.server.log.append((self.command, unquote(parts.path)))
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.body = self.read_body()
        try:
            if self.server.down:
                raise Refusal(503, message="the server is being repaired")
            status, content, headers = self.route(parts.path)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            status, content, headers = refusal.status, {"error": refusal.message}, headers
            headers["X-Error-Message"] = refusal.message
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send(status, data, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def route(self, path: str) -> Reply:
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return getattr(self, f"on_{name}")(**found)
        raise Refusal(404, message=f"no such page: {self.command} {path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        cut = self.server.breaks.pop(headers.get("ETag", "").strip('"'), None) if self.command == "GET" else None
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def account(self) -> Account | None:
        """Whose token came with the request; a token that nobody has is refused."""
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            return None
        if token not in self.server.accounts:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return self.server.accounts[token]

    def repository(self, id: str) -> Repository:
        """The repository, if this account sees it."""
        account = self.account()
        repository = self.server.repositories.get(id)
        hidden = repository is not None and repository.private
        if repository is None or (hidden and (account is None or id.split("/")[0] not in account.organisations)):
            if account is None:
                raise Refusal(401, message="Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return repository

    def commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def writer(self, namespace: str) -> Account:
        account = self.account()
        if account is None:
            raise Refusal(401, message="Invalid username or password.")
        if not account.writes or namespace not in (account.name, *account.organisations):
            raise Refusal(
                403, message=f'You don\'t have the rights to create a model under the namespace "{namespace}"'
            )
        return account

    def on_whoami(self) -> Reply:
        account = self.account()
        if account is None:
            raise Refusal(401, message="Invalid username or password.")
        organisations = [{"name": name} for name in account.organisations]
        return 200, {"type": "user", "name": account.name, "orgs": organisations, "auth": {}}, {}

    def on_create(self) -> Reply:
        asked = json.loads(self.body)
        account = self.account()
        namespace = asked.get("organization") or (account.name if account else "")
        self.writer(namespace)
        id = f"{namespace}/{asked['name']}"
        url = {"url": f"{self.server.endpoint}/{id}", "id": id}
        if id in self.server.repositories:
            return 409, url | {"error": "You already created this model repo"}, {}
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[id] = Repository(id, private)
        return 200, url, {}

    def on_branch(self, id: str, branch: str) -> Reply:
        self.writer(id.split("/")[0])
        repository = self.repository(id)
        if branch in repository.branches:
            return 409, {"error": f"Reference already exists: {branch}"}, {}
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = self.commit_of(repository, start)
        return 200, {}, {}

    def on_refs(self, id: str) -> Reply:
        branches = self.repository(id).branches
        listed = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in branches.items()]
        return 200, {"branches": listed, "tags": [], "converts": []}, {}

    def on_info(self, id: str, revision: str = "main") -> Reply:
        repository = self.repository(id)
        sha = self.commit_of(repository, revision)
        siblings = []
        for path, blob in repository.commits[sha].items():
            entry: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                entry |= {"size": self.size(path, blob), "blobId": blob.git_oid}
                entry |= (
                    {"lfs": {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}} if blob.lfs else {}
                )
            siblings.append(entry)
        return 200, {"id": id, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []}, {}

    def size(self, path: str, blob: Blob) -> int:
        return self.server.claims.get(path, len(blob.data))

    def on_tree(self, id: str, revision: str) -> Reply:
        repository = self.repository(id)
        files = repository.commits[self.commit_of(repository, revision)]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)
        ]
        for path, blob in files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size(path, blob), "oid": blob.git_oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
            entries.append(entry)
        return 200, entries, {}

    def on_file(self, id: str, revision: str, path: str) -> Reply:
        repository = self.repository(id)
        account = self.account()
        if repository.gated and (account is None or account.name not in repository.admitted):
            message = f"Access to model {id} is restricted"
            raise Refusal(401 if account is None else 403, "GatedRepo", message)
        if account is not None and not account.reads:
            raise Refusal(403, message="this token may not read the content of repositories")
        sha = self.commit_of(repository, revision)
        headers = {"X-Repo-Commit": sha}
        blob = repository.commits[sha].get(path)
        if blob is None:
            return 404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"}
        headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            self.server.large[blob.sha256] = blob.data
            location = f"{self.server.storage}/content/{blob.sha256}"
            linked = {"Location": location, "X-Linked-Size": str(len(blob.data)), "X-Linked-ETag": f'"{blob.etag}"'}
            return 302, b"", headers | linked
        return self.ranged(blob.data, headers)

    def on_content(self, oid: str) -> Reply:
        if self.headers.get("Authorization"):
            raise Refusal(400, message="a token was sent to the storage")
        if oid in self.server.lost:
            raise Refusal(500, message="the storage is being repaired")
        return self.ranged(self.server.large[oid], {"ETag": f'"{oid}"'})

    def ranged(self, data: bytes, headers: dict[str, str]) -> Reply:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, data, headers
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        return 206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}

    def on_preupload(self, id: str, revision: str) -> Reply:
        self.writer(id.split("/")[0])
        repository = self.repository(id)
        files = repository.commits[self.commit_of(repository, revision)]
        answers = []
        for file in json.loads(self.body)["files"]:
            known = files.get(file["path"])
            mode = "lfs" if is_large(file["path"]) else "regular"
            oid = known.etag if known else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answers}, {}

    def on_batch(self, id: str) -> Reply:
        self.writer(id.split("/")[0])
        objects = []
        for entry in json.loads(self.body)["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.server.large:
                upload = {"href": f"{self.server.storage}/content/{entry['oid']}"}
                verify = {"href": f"{self.server.endpoint}/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def on_upload(self, oid: str) -> Reply:
        blob = Blob(self.body, True)
        if blob.sha256 != oid:
            raise Refusal(400, message="the content is not what it was said to be")
        self.server.large[oid] = self.body
        return 200, {}, {}

    def on_verify(self) -> Reply:
        asked = json.loads(self.body)
        if len(self.server.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(400, message="the size is not what it was said to be")
        return 200, {}, {}

    def on_yaml(self) -> Reply:
        text = json.loads(self.body)["content"]
        if not re.match(r"---\n.*?\n---\n", text, re.DOTALL):
            return 200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def on_commit(self, id: str, revision: str) -> Reply:
        self.writer(id.split("/")[0])
        repository = self.repository(id)
        files = dict(repository.commits[self.commit_of(repository, revision)])
        message = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = Blob(self.server.large[value["oid"]], True)
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {value['path']}")
        asks_to_merge = self.query.get("create_pr") == "1"
        branch = f"refs/pr/{len(repository.branches)}" if asks_to_merge else revision
        sha = repository.commit(branch, files, message)
        answer: dict[str, Any] = {"commitUrl": f"{self.server.endpoint}/{id}/commit/{sha}", "commitOid": sha}
        if asks_to_merge:
            answer["pullRequestUrl"] = f"{self.server.endpoint}/{id}/discussions/{branch.rpartition('/')[2]}"
        return 200, answer, {}


ROUTES = (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "yaml"),
    ("POST", rf"/api/models/{ID}/branch/(?P<branch>[^/]+)", "branch"),
    ("GET", rf"/api/models/{ID}/refs", "refs"),
    ("GET", rf"/api/models/{ID}(/revision/{REVISION})?", "info"),
    ("GET", rf"/api/models/{ID}/tree/{REVISION}", "tree"),
    ("POST", rf"/api/models/{ID}/preupload/{REVISION}", "preupload"),
    ("POST", rf"/api/models/{ID}/commit/{REVISION}", "commit"),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", "batch"),
    ("GET HEAD", rf"/{ID}/resolve/{REVISION}/(?P<path>.+)", "file"),
    ("GET HEAD", r"/content/(?P<oid>[0-9a-f]{64})", "content"),
    ("PUT", r"/content/(?P<oid>[0-9a-f]{64})", "upload"),
    ("POST", "/verify", "verify"),
)
