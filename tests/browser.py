"""Chromium without a window, driven by the Chrome DevTools Protocol."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from .process import end_group
from .waiting import wait_until

DEADLINE_S = 120.0

NAVIGATED = re.compile(r"navigated or closed|context was destroyed|Cannot find context")
"""Chromium's errors for a script whose page was left meanwhile."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

FULL_SPEED = (
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)
"""Flags that keep Chromium from slowing down the timers of background tabs."""


def find_chromium() -> str:
    """Return the program; skip the test without one."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    return program


@contextmanager
def chromium(directory: Path, *arguments: str) -> Iterator[None]:
    """Run the browser with this directory for its profile."""
    with subprocess.Popen(
        [find_chromium(), *FLAGS, f"--user-data-dir={directory}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        process_group=0,
    ) as process:
        try:
            yield
        finally:
            end_group(process)


KEYS = {"Tab": ("Tab", "", 9), "Enter": ("Enter", "\r", 13), "Space": (" ", " ", 32)}
"""The key, the text and the Windows code of each, by the code of the protocol."""


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self.events: list[dict[str, Any]] = []
        """What the domains that are enabled have reported, up to the last call."""
        self._connection = connection
        self._last_id = 0

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters}
        self._connection.send(json.dumps(command))
        while True:
            answer: dict[str, Any] = json.loads(self._connection.recv(timeout=DEADLINE_S))
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """Run statements in the page, ``await`` among them, and return what they return."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression is true."""
        wait_until(
            lambda: self._is_true(expression), told=lambda: f"{expression} does not become true"
        )

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.run(f"return Boolean({expression})"))
        except AssertionError as failure:
            if NAVIGATED.search(str(failure)):
                return False
            raise

    def press(self, code: str, *, shift: bool = False) -> None:
        """Press a key and release it."""
        key, text, number = KEYS[code]
        event = {"code": code, "key": key, "windowsVirtualKeyCode": number, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int) -> None:
        """Show the page in a window of this width; a narrow one is that of a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait_until(
            f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        )


class Browser:
    """A running browser."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._stack = stack

    def page(self, url: str) -> Page:
        """Open a tab, in front of the others."""
        request = urllib.request.Request(f"{self._url}/json/new?about:blank", method="PUT")  # noqa: S310
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            target = json.load(answer)
        connection = self._stack.enter_context(
            connect(
                target["webSocketDebuggerUrl"],
                max_size=None,
                max_queue=None,  # a tab that is not called has events, too
                proxy=None,
                open_timeout=DEADLINE_S,
                ping_interval=None,
            )
        )
        page = Page(connection)
        page.open(url)
        return page


@contextmanager
def browser(directory: Path, *arguments: str) -> Iterator[Browser]:
    """Run a browser to drive."""
    with chromium(directory, "--remote-debugging-port=0", *arguments), ExitStack() as stack:
        port_file = directory / "DevToolsActivePort"
        wait_until(
            lambda: port_file.exists() and "\n" in port_file.read_text(encoding="utf-8"),
            told=lambda: "the browser does not start",
        )
        yield Browser(int(port_file.read_text(encoding="utf-8").split()[0]), stack)
