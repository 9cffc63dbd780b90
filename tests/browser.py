"""Chromium without a window, driven by the W3C WebDriver protocol; Debian: `chromium` and `chromium-driver`."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.services import free_port, running, wait_until


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, address: str) -> None:
        _ask(f"{self._session}/url", {"url": address})

    def enter_frame(self, index: int = 0) -> None:
        """From here on look into a frame of the page; `open` leaves it."""
        _ask(f"{self._session}/frame", {"id": index})

    def leave_frame(self) -> None:
        _ask(f"{self._session}/frame", {"id": None})

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return _ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def wait_for(self, script: str, seconds: float = 60) -> Any:
        """What a piece of JavaScript returns as soon as that is something.

        Raises:
            AssertionError: it is nothing for so long.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, f"{script} gave nothing in {seconds} seconds; the page:\n{self.text()}"
            time.sleep(0.25)
        return found

    def wait_for_text(self, *texts: str) -> None:
        for text in texts:
            self.wait_for(f"return document.body && document.body.innerText.includes({json.dumps(text)})")

    def click(self, text: str) -> None:
        """Click the innermost element with this text."""
        self.wait_for(
            f"const wanted = {json.dumps(text)};"
            "const found = [...document.querySelectorAll('a, button, [role], td, span, div, h3, li, p')]"
            ".filter(e => e.innerText && e.innerText.trim() === wanted && e.getClientRects().length).pop();"
            "if (found) found.click(); return Boolean(found)"
        )

    def picture(self, path: Path) -> None:
        """Save what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(_ask(f"{self._session}/screenshot", None)))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser while the block runs; without it, the test is skipped.

    Args:
        folder: for its profile and its log.
    """
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: `apt-get install chromium chromium-driver`)")
    port, log = free_port(), folder / "chromedriver.log"
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments += ["--window-size=1500,1000", f"--user-data-dir={folder / 'profile'}"]
    options = {"args": arguments, "binary": shutil.which("chromium")}
    with running(["chromedriver", f"--port={port}"], log, HOME=str(folder), NO_PROXY="127.0.0.1"):
        wait_until(lambda: _is_ready(f"http://127.0.0.1:{port}/status"), log)
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        sessions = f"http://127.0.0.1:{port}/session"
        session = f"{sessions}/{_ask(sessions, capabilities)['sessionId']}"
        try:
            yield Browser(session)
        finally:
            urlopen(Request(session, method="DELETE"), timeout=60).close()


def _is_ready(address: str) -> bool:
    try:
        return bool(_ask(address, None)["ready"])
    except OSError:
        return False


def _ask(address: str, content: dict[str, Any] | None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    try:
        with urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=120) as answer:
            return json.load(answer)["value"]
    except HTTPError as error:
        raise RuntimeError(error.read().decode()[:2000]) from None
