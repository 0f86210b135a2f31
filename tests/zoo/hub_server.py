"""A small Hub: what huggingface_hub asks of the real one, for repositories of models that are kept in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(BaseHTTPRequestHandler):
    """Repositories are ``{"OWNER/NAME": {revision: {file: bytes}}}`` in the server's ``repositories``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_HEAD(self):
        """The head of a file."""
        self._resolve(body=False)

    def do_GET(self):
        """A file, or what a revision holds."""
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^?]+?)/?(\?.*)?", self.path)
        if not found:
            self._resolve(body=True)
            return
        files = self._revision(found[1], found[3])
        if files is not None and found[2] == "tree":
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        elif files is not None:
            siblings = [{"rfilename": name} for name in files]
            self._answer({"id": found[1], "sha": self._commit(files), "siblings": siblings, "private": False})

    def do_POST(self):
        """Repositories, branches and commits are made."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = self._chunks()
        self._answer(self._made(data))

    def _made(self, data):
        here = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            made = json.loads(data)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.server.repositories.setdefault(name, {"main": {}})
            return {"url": f"{here}/{name}"}
        if self.path.endswith("/validate-yaml"):
            return {"errors": [], "warnings": []}
        repository, action, revision = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/([^?]+).*", self.path).groups()
        branches = self.server.repositories[repository]
        if action == "branch":
            branches[revision] = {}
            return {}
        if action == "preupload":
            paths = [file["path"] for file in json.loads(data)["files"]]
            return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                branches[revision][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = self._commit(branches[revision])
        branches[oid] = dict(branches[revision])
        return {"commitUrl": f"{here}/{repository}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}

    def _chunks(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _resolve(self, body):
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", self.path)
        files = self._revision(found[1], found[2])
        if files is None:
            return
        content = files[found[3]]
        self.send_response(200)
        for name, value in {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self._commit(files),
            "Content-Length": str(len(content)),
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _revision(self, repository, revision):
        """The files of a revision; None, and an error is answered, where there is none."""
        branches = self.server.repositories.get(repository)
        if branches is None or revision not in branches:
            code = "RepoNotFound" if branches is None else "RevisionNotFound"
            self._answer({"error": code}, status=404, headers={"X-Error-Code": code})
            return None
        files = branches[revision]
        branches[self._commit(files)] = dict(files)
        return files

    def _commit(self, files):
        return hashlib.sha1(
            repr(sorted((name, hashlib.sha1(f).digest()) for name, f in files.items())).encode()
        ).hexdigest()

    def _answer(self, content, status=200, headers=None):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def running():
    """(address, repositories) of a Hub that runs meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.repositories
    finally:
        server.shutdown()
        server.server_close()
