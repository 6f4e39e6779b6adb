"""A real browser without a window: Debian's Chromium, told what to do over its own protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-default-browser-check", "--remote-debugging-pipe",
)  # fmt: skip


def program() -> str | None:
    """Where the browser is."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(
    program() is None, reason="there is no Chromium here: apt-get install chromium"
)


class RefusedError(Exception):
    """A command has failed, as one to a page that is being left does."""


class Browser:
    """One page. requests : addresses that it asked for. faults : what its console says."""

    def __init__(self, ask: Callable[[bytes], None], read: Iterator[dict[str, Any]]) -> None:
        self._ask, self._read = ask, read
        self._numbers = itertools.count(1)
        self._session = ""
        self._loaded = 0
        self.requests: list[str] = []
        self.faults: list[str] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        attached = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self.tell(f"{part}.enable")

    def tell(self, method: str, /, **given: Any) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        self._ask(json.dumps(message).encode() + b"\0")
        for told in self._read:
            if told.get("id") == number:
                if "error" in told:
                    raise RefusedError(f"{method}: {told['error']}")
                result: dict[str, Any] = told["result"]
                return result
            self._note(told)
        raise AssertionError("the browser has ended")

    def _note(self, told: dict[str, Any]) -> None:
        given = told.get("params", {})
        match told.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(given["exceptionDetails"]))
            case "Log.entryAdded" if given["entry"]["source"] != "network":
                self.faults.append(json.dumps(given["entry"]))

    def go(self, address: str) -> None:
        """Open a page and wait until it is there."""
        before = self._loaded
        self.tell("Page.navigate", url=address)
        self.wait_for(lambda: self._loaded > before)

    def look(self, width: int = 1100, height: int = 800, *, dark: bool = False) -> None:
        """The size of the window, and whether the system wishes dark pages."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[wish])

    def run(self, code: str) -> Any:
        """The value of an expression in the page."""
        told = self.tell("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def type(self, text: str) -> None:
        """Letter by letter, as a person would."""
        for letter in text:
            self.tell("Input.insertText", text=letter)

    def press(self, key: str, code: int, *, ctrl: bool = False, shift: bool = False) -> None:
        """A key by its name and number, as 'Tab', 9."""
        held = (2 if ctrl else 0) | (8 if shift else 0)
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": held}
        text = {"text": "\r"} if key == "Enter" and not ctrl else {}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **given)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Until it holds."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(RefusedError):
                if condition():
                    return
                self.run("1")  # hears what has happened
            time.sleep(0.03)
        raise AssertionError("it did not come about")

    def wait(self, code: str) -> None:
        """Until an expression in the page is true."""
        self.wait_for(lambda: self.run(code))

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """What is to be seen, as PNG."""
        data = self.tell("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path


@contextmanager
def browser() -> Iterator[Browser]:
    """One that runs until the end of the block; it may reach this machine alone."""
    found = program()
    assert found is not None
    asked, ask = os.pipe()
    hear, said = os.pipe()
    with tempfile.TemporaryDirectory() as home:
        flags = [*_FLAGS, f"--user-data-dir={home}", "--proxy-server=127.0.0.1:9"]
        flags += ["--proxy-bypass-list=<-loopback>;127.0.0.1;localhost"]
        # the pipes have to be 3 and 4 in the browser: bash puts them there
        script = f'exec 3<&{asked} 4>&{said}; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", found, *flags],
            pass_fds=(asked, said), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(asked)
        os.close(said)
        with os.fdopen(ask, "wb", buffering=0) as out, os.fdopen(hear, "rb", buffering=0) as into:
            try:
                yield Browser(lambda message: out.write(message) and None, _messages(into))
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _messages(into: Any) -> Iterator[dict[str, Any]]:
    rest = b""
    while piece := into.read(1 << 16):
        *whole, rest = (rest + piece).split(b"\0")
        for message in whole:
            yield json.loads(message)
