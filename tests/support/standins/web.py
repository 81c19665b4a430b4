"""A stand-in for a web server on loopback, with scripted faults.

    with WebStandin() as web:
        url = web.add("/weights.pth", content)
        web.fault("/weights.pth", break_after=1000, times=1)
        ...
        assert [request.range for request in web.requests] == [None, "bytes=1000-"]

It answers as a file server does: ETag, Range. A path that begins with /to/ redirects to the rest,
with a signature in the query.
"""

import hashlib

from support.standins.server import Handler, Request, Standin

SIGNATURE = "signature=5ec2e75ec2e7"


class _WebHandler(Handler):
    def answer(self, request: Request) -> None:
        fault, path = self.standin.next_fault(request.method, request.path), request.path
        if self.fails(fault):
            return
        if path.startswith("/to/"):
            self.send(302, {"Location": f"{self.standin.address}{path[3:]}?{SIGNATURE}"})
        elif path in self.standin.files:
            content = self.standin.files[path]
            self.send_file(content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, fault)
        else:
            self.send(404, {})


class WebStandin(Standin):
    handler = _WebHandler

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def add(self, path: str, content: bytes) -> str:
        """Puts a file there, or another in its place; gives its address."""
        self.files[path] = content
        return self.address + path
