"""A stand-in for the hub on loopback, with scripted faults.

    with HubStandin() as hub:
        hub.add("owner/name", "config.json", b"{}")
        hub.fault("owner/name", "config.json", status=503, times=2)
        subprocess.run([...], env=hub.environment(tmp_path))
        assert hub.methods("config.json") == ["HEAD", "HEAD", "HEAD", "HEAD", "GET"]

It answers `/{repo}/resolve/{revision}/{file}` as the hub does: ETag (sha256, or git's sha1 for small
files), X-Repo-Commit, Range, and the hub's X-Error-Code where something doesn't exist; a dataset is the repository
`datasets/owner/name`. `/api/{models|datasets}/{repo}/revision/...` and `/tree/...` list it, in pages of
`PAGE` entries whose links name the hub's own address; their faults are those of the file `API`. The hub library
reads its environment when it is imported: a child process gets `environment`, this one `use`.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from huggingface_hub import constants

from support.standins.server import Handler, Request, Standin

API = "the interface"
PAGE = 3


def set_endpoint(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The address of the hub, for what the hub's library asks of it and for files."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


class _HubHandler(Handler):
    def answer(self, request: Request) -> None:
        if request.path.startswith("/api/"):
            return self._list(request)
        parts = re.fullmatch(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)", request.path)
        if parts is None:
            return self.send(404, {})
        repo, filename = parts["repo"], parts["filename"]
        fault = self.standin.next_fault(request.method, repo, filename)
        if self.fails(fault):
            return None
        content, etag = self.standin.find(repo, parts["revision"], filename, request.authorized)
        if isinstance(content, int):
            commit = {"X-Repo-Commit": self.standin.commit(repo)} if etag == "EntryNotFound" else {}
            return self.send(content, {"X-Error-Code": etag, **commit})
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.standin.commit(repo), "Accept-Ranges": "bytes"}
        return self.send_file(content, headers, fault)

    def _list(self, request: Request) -> None:
        """What the hub's interface says of a revision, and of the files at it."""
        pattern = r"/api/(models/|(datasets/))(?P<name>[^/]+/[^/]+)/(revision|tree)/(?P<revision>.+)"
        parts = re.fullmatch(pattern, request.path)
        if parts is None:
            return self.send(404, {})
        repo = (parts[2] or "") + parts["name"]
        if self.fails(self.standin.next_fault(request.method, repo, API)):
            return None
        status, code = self.standin.find(repo, parts["revision"], "", request.authorized)
        if code in {"RepoNotFound", "RevisionNotFound"}:
            return self.send(int(status), {"X-Error-Code": str(code)})
        headers = {"Content-Type": "application/json"}
        if parts[4] == "revision":
            return self.send(200, headers, json.dumps({"sha": self.standin.commit(repo)}).encode())
        begin = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        entries = self.standin.entries(repo)
        if begin + PAGE < len(entries):
            next_page = f"https://hub.invalid{request.path}?recursive=true&cursor={begin + PAGE}"
            headers["Link"] = f'<{next_page}>; rel="next"'
        return self.send(200, headers, json.dumps(entries[begin : begin + PAGE]).encode())


class HubStandin(Standin):
    handler = _HubHandler

    def __init__(self) -> None:
        super().__init__()
        self.endpoint = self.address
        self._files: dict[str, dict[str, tuple[bytes, str]]] = {}

    def add(self, repo: str, filename: str, content: bytes, *, lfs: bool = True) -> str:
        """Puts a file into the one branch, `main`, in a new commit; gives its ETag."""
        etag = hashlib.sha256(content) if lfs else hashlib.sha1(b"blob %d\0" % len(content) + content)
        self._files.setdefault(repo, {})[filename] = (content, etag.hexdigest())
        return etag.hexdigest()

    def commit(self, repo: str) -> str:
        """The commit hash that `main` stands at."""
        return hashlib.sha1(repr(sorted((n, e) for n, (_, e) in self._files[repo].items())).encode()).hexdigest()

    def entries(self, repo: str) -> list[dict[str, object]]:
        """The files and folders as the hub's interface lists them."""
        found: list[dict[str, object]] = []
        for name, (content, etag) in self._files[repo].items():
            large = {"lfs": {"oid": etag, "size": len(content), "pointerSize": 130}} if len(etag) == 64 else {}
            found.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, **large})
            if "/" in name:
                found.append({"type": "directory", "path": name.rpartition("/")[0], "size": 0, "oid": "0" * 40})
        return found

    def requests_for(self, filename: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith("/" + filename)]

    def methods(self, filename: str) -> list[str]:
        return [request.method for request in self.requests_for(filename)]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """os.environ for a child whose hub this is, with its cache under `home` and no token or proxy but in `more`."""
        inherited = {k: v for k, v in os.environ.items() if not re.match(r"HF_|HUGGING|.*_PROXY$", k, re.IGNORECASE)}
        cache = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "VAELENS_CACHE": str(home / "vaelens-cache")}
        return inherited | {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1"} | cache | more

    def use(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """From now on this is the hub of this process, with the caches under `home`."""
        set_endpoint(patch, self.endpoint)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("VAELENS_CACHE", str(home / "vaelens-cache"))

    def find(self, repo: str, revision: str, filename: str, authorized: bool) -> tuple[bytes, str] | tuple[int, str]:
        """(content, etag), or (status, X-Error-Code) with the words that the hub uses for what isn't there."""
        if repo not in self._files:
            return (404 if authorized else 401), "RepoNotFound"
        if revision not in {"main", self.commit(repo)}:
            return 404, "RevisionNotFound"
        return self._files[repo].get(filename, (404, "EntryNotFound"))
