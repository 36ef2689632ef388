"""A model hub on this machine: enough of its protocol for the real client to download from it."""

import hashlib
import http.server
import json
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves `repositories` ({"owner/name": {file name: bytes}}) at `url`; "gated/..." needs a login.  `requests`: what was asked."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        self.repositories, self.requests, self.headers = repositories, [], []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.requests.append(f"{self.command} {self.path}")
                hub.headers.append(dict(self.headers))
                status, headers, body = hub.answer(urllib.parse.unquote(self.path.partition("?")[0]))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        kind, *parts = path.strip("/").split("/")
        parts = parts[1:] if kind == "api" else [kind, *parts]
        if len(parts) < 3:  # what the client asks about itself
            return 404, {}, b"{}"
        owner, name, what, *rest = parts
        if owner == "gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        files = self.repositories.get(f"{owner}/{name}")
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if rest and rest[0] not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if what == "revision":
            body = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        if what == "tree":
            body = [{"type": "file", "path": file, "size": len(data), "oid": _oid(data)} for file, data in files.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        file = "/".join(rest[1:])
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{_oid(files[file])}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, files[file]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def fill_cache(cache, repository: str, files: dict[str, bytes]):
    """Put a repository into the hub's cache as a finished download leaves it; its snapshot folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        blob, link = folder / "blobs" / _oid(data), snapshot / name
        blob.write_bytes(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot
