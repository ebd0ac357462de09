"""A real browser for tests: headless Chromium, spoken to by its DevTools protocol."""

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

START_S = 90
ANSWER_S = 60
DESKTOP, PHONE = (1280, 900), (390, 844)
"""Widths and heights of the view, in pixels."""


class Browser:
    """One page of a running browser; ``requests`` are the URLs that it asked for."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._do(self._connect(port))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Show a page, in light or dark; returns when it has loaded."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme_of = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=scheme_of)
        self.requests, self.problems = [], []
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, (url, answer)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = ANSWER_S) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"never came true: {script}"
            time.sleep(0.2)
        return value

    def screenshot(self) -> np.ndarray:
        """The whole page, not only what is in view: uint8 RGB, (height, width, 3)."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def rectangles(self, selector: str) -> list[dict[str, Any]]:
        """x, y, width, height on the page, and text, of all elements that a selector finds."""
        return self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(element => {{"
            "const at = element.getBoundingClientRect();"
            "return {x: at.x + scrollX, y: at.y + scrollY, width: at.width, height: at.height,"
            "text: element.textContent}})"
        )

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        return self._do(self._call(method, options))

    def close(self) -> None:
        self._do(self._session.close())
        self._loop.close()

    def _do(self, what: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(what, ANSWER_S))

    async def _connect(self, port: int) -> None:
        self._session = aiohttp.ClientSession()
        async with self._session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            target = json.loads(await answer.text())
        self._socket = await self._session.ws_connect(
            target["webSocketDebuggerUrl"], max_msg_size=1 << 28
        )

    async def _call(self, method: str, options: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": options})
        while True:
            said = await self._socket.receive_json()
            if said.get("id") == self._number:
                assert "error" not in said, (method, said)
                return said["result"]
            self._note(said)

    def _note(self, event: dict[str, Any]) -> None:
        match event:
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.requests.append(url)
            case {"method": "Runtime.exceptionThrown", "params": details}:
                self.problems.append(str(details))
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own below ``folder``; the test skips where there is none."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium: apt-get install chromium")
    profile = folder / "profile"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run"]
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            [binary, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        page = Browser(_port(process, profile, folder / "chromium.log"))
        try:
            yield page
        finally:
            page.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(process: "subprocess.Popen[bytes]", profile: Path, log: Path) -> int:
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_S
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])
