"""A server on the loopback that answers as a test tells it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


def body(content: bytes, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def status(code: int) -> Answer:
    return lambda request: request.send_error(code)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""


def stall(content: bytes, seconds: float) -> Answer:
    """Promises a byte more than it gives, and keeps the connection."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body(content, Content_Length=str(len(content) + 1))(request)
        request.wfile.flush()
        time.sleep(seconds)

    return answer


class Server:
    """Answers on the loopback: `answers[path]` one after the other, the last one for ever; anything else is 404."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                answers = server.answers.get(self.path, [status(404)])
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test's output clean."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
