"""A Hugging Face hub of one process: real HTTP, a folder for each repository, and the few calls that `datasets` makes.

Enough for `datasets.load_dataset` to find a repository's commit, list its files and fetch them. `python fake_hub.py
FOLDER` serves FOLDER/OWNER/NAME and prints its port; a repository with a file named GATED refuses those who ask.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)


class Hub(BaseHTTPRequestHandler):
    """Answers for the repositories in `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        if parts[0] != "datasets" or len(parts) < 3 or not (self.root / parts[1] / parts[2]).is_dir():
            return self.refuse(404, "RepoNotFound")
        repository, rest = self.root / parts[1] / parts[2], parts[3:]
        if (repository / "GATED").exists():
            return self.refuse(403, "GatedRepo")
        if len(rest) > 1 and rest[1] not in REVISIONS:
            return self.refuse(404, "RevisionNotFound")
        if rest and rest[0] == "resolve":
            return self.file(repository / "/".join(rest[2:]))
        if rest and rest[0] == "tree":
            folder = repository / "/".join(rest[2:])
            if not folder.is_dir():
                return self.refuse(404, "EntryNotFound")
            paths = folder.rglob("*") if "recursive=true" in url.query.lower() else folder.iterdir()
            return self.json([entry(path, repository) for path in sorted(paths)])
        if rest and rest[0] == "paths-info":
            paths = [repository / path for path in parse_qs(self.asked).get("paths", [])]
            return self.json([entry(path, repository) for path in paths if path.exists()])
        siblings = [{"rfilename": str(path.relative_to(repository))} for path in repository.rglob("*.*")]
        return self.json(
            {"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        )

    def file(self, path: Path) -> None:
        if path.is_file():
            self.answer(200, path.read_bytes(), {"ETag": f'"{entry(path, path.parent)["oid"]}"'})
        else:
            self.refuse(404, "EntryNotFound")

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        if "-v" in sys.argv:
            super().log_message(*arguments)


def entry(path: Path, repository: Path) -> dict[str, object]:
    """A file or folder as the hub lists it."""
    name = path.relative_to(repository).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
