"""A real headless browser that a test steers: pages over HTTP, at a phone's width, in the dark, with what they log.

It speaks the DevTools protocol over two pipes (`--remote-debugging-pipe`): JSON messages, a zero byte after each.
"""

import base64
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.browser import find_browser

WAIT_SECONDS = 60


class Browser:
    """One window; ends with the `with` block.

    Attributes:
        console: what pages logged, and what the browser said of them (a script that their policy forbids, for one).
        requests: addresses that pages asked for.
    """

    def __init__(self, folder: Path) -> None:
        browser = find_browser()
        assert browser is not None
        here_in, there_out = os.pipe()
        there_in, here_out = os.pipe()

        def places() -> None:  # the browser reads from 3 and writes to 4
            os.dup2(os.dup2(there_in, 60), 3)
            os.dup2(os.dup2(there_out, 61), 4)

        self._process = subprocess.Popen(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-extensions", f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe",
                "about:blank",
            ],
            preexec_fn=places, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there_in)
        os.close(there_out)
        self._in, self._out, self._buffer = here_in, here_out, b""
        self._number, self._session = 0, ""
        self.console: list[str] = []
        self.requests: list[str] = []
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                result: dict[str, Any] = heard["result"]
                return result

    def show(self, address: str, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Go there, at this width in CSS pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Of an expression on the page; of a promise, what comes of it."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Until an expression on the page is true."""
        self.value(
            f"new Promise((done, fail) => {{ const look = () => {{ if ({condition}) done(true); "
            f"else setTimeout(look, 50); }}; setTimeout(() => fail('never'), {WAIT_SECONDS * 1000}); look(); }})"
        )

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG file."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        params = heard.get("params", {})
        match heard.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(str([argument.get("value") for argument in params["args"]]))
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
        return heard
