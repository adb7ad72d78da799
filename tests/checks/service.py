"""A project's service in a process of its own, and its clients."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.process import check_output, environment
from tests.project import Project
from tests.venv import venv_bin

LAUNCHER = Path(__file__).with_name("launcher.py")

USERS = ("alice", "bob")
"""Most tests need both: the launcher is asked for the options of both in one request."""

START_S = 180.0
ANSWER_S = 30.0
STOP_S = 180.0

STYLE = r"\x1b\[[\d;]*m"
LISTENING = re.compile(rf"^(?=.*listening).*port(?:{STYLE}|\W)+(\d+)\b", re.MULTILINE)
"""The log line with the port: as text, in colours on a terminal, or as JSON."""

Frame = dict[str, Any]


def is_ok(host: str, port: int, path: str) -> bool:
    """Return whether a request is answered with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


class Service:
    """A project's service in its own process, in a copy of the project."""

    def __init__(self, project: Project, module: str = "app", **settings: str) -> None:
        self._root = project.root
        self._python = venv_bin(project) / "python"
        self._env = environment(HOST="127.0.0.1", PORT="0") | settings
        self._options: dict[str, dict[str, Any]] = {}
        self._log = (self._root / "service.log").open("w+", encoding="utf-8")
        self._launcher = subprocess.Popen(
            [self._python, LAUNCHER, module],
            cwd=self._root,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )
        self._pid: int | None = self._answer()

    def wait_until_ready(self) -> None:
        """Wait until the service has logged its port and `/readyz` answers with 200."""
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert self._status() is None, "the service does not start"
            assert time.monotonic() < deadline, "the service does not become ready"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        listening = LISTENING.search(self.log())
        if listening is None:
            return False
        self._env["PORT"] = listening[1]
        return is_ok("127.0.0.1", int(listening[1]), "/readyz")

    def connect_options(self, name: str) -> dict[str, Any]:
        """Return uri, headers and subprotocols as the project's own tests use them."""
        if name not in self._options:
            names = USERS if name in USERS else (name,)
            options = self._ask([self.port, *names])
            assert isinstance(options, list), options
            self._options |= zip(names, options, strict=True)
        return self._options[name]

    def _ask(self, request: object) -> Any:
        print(json.dumps(request), file=self._launcher.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._launcher.stdout is not None
        return json.loads(self._launcher.stdout.readline() or "null")

    def _status(self) -> int | None:
        """Return the exit status of the service, null while it runs."""
        if self._pid is None:
            return self._launcher.wait(STOP_S)
        status: int | None = self._ask(None)
        return status

    @contextlib.contextmanager
    def client(self, name: str, port: str | None = None, **options: Any) -> Iterator["Client"]:
        """Connect, and receive ``welcome``."""
        with self.connection(name, port, **options) as connection:
            yield Client(connection)

    def connection(self, name: str, port: str | None = None, **options: Any) -> ClientConnection:
        """Connect to the service, or to another port, with credentials of this service."""
        how = self.connect_options(name)
        uri, separator, _ = how["uri"].partition("?ticket=")
        if port is not None:
            uri = uri.replace(f":{self.port}/", f":{port}/")
        connection: ClientConnection = connect(
            uri + (separator and separator + self._buy_ticket(name)),
            additional_headers=how["headers"] | options.pop("headers", {}),
            subprotocols=[Subprotocol(each) for each in how["subprotocols"]] or None,
            proxy=None,
            open_timeout=ANSWER_S,
            close_timeout=ANSWER_S,
            **options,
        )
        return connection

    def _buy_ticket(self, name: str) -> str:
        body = json.dumps({"user": name})
        printed = self.shell(
            f". ./.env; curl --silent --fail http://127.0.0.1:{self.port}/tickets"
            f""" -H "Authorization: Bearer $BACKEND_KEY" -d '{body}'"""
        )
        ticket: str = json.loads(printed)["ticket"]
        return ticket

    def shell(self, line: str) -> str:
        """Run a line in a shell, in the project's directory; return its output."""
        return check_output(["sh", "-c", line], self._root, env=self._env)

    @property
    def metrics_key(self) -> str:
        """The key for ``/metrics`` in the service's `.env`."""
        text = (self._root / ".env").read_text(encoding="utf-8")
        (key,) = re.findall(r"^METRICS_KEY=(.+)$", text, re.MULTILINE)
        return str(key)

    @property
    def port(self) -> str:
        """The port on which the service listens."""
        return self._env["PORT"]

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._pid is not None, "the service does not start"
        return self._pid

    def stop(self) -> None:
        """Send SIGTERM; the service must end without an error. Idempotent."""
        self._signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"the service ends with {code}"
        assert "Traceback" not in self.log(), "the service logs an error"

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._status() is not None

    def _signal(self, number: signal.Signals) -> None:
        if self._status() is None:  # or the id may be that of another process
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end of the process, and return its status."""
        deadline = time.monotonic() + STOP_S
        while (status := self._status()) is None:
            assert time.monotonic() < deadline, "the service does not end"
            time.sleep(0.02)
        return status

    def log(self) -> str:
        """Return the output of the service."""
        self._log.flush()
        return (self._root / "service.log").read_text(encoding="utf-8")

    def end(self) -> None:
        """Kill it if it still runs. Idempotent."""
        if self._log.closed:
            return
        self._signal(signal.SIGKILL)
        self._launcher.communicate()
        self._log.close()


class Client:
    """One connection to the service."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.user: str = self.receive("welcome")["user"]

    def receive(self, *types: str) -> Frame:
        """Return the next frame of these types."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            frame: Frame = json.loads(
                self._connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            )
            if frame["type"] in types:
                return frame

    def send(self, **command: object) -> None:
        """Send a command."""
        self.send_text(json.dumps(command))

    def send_text(self, text: str) -> None:
        """Send any text."""
        self._connection.send(text)

    def ask(self, **command: object) -> Frame:
        """Send a command, which must be accepted; return the answer."""
        self.send(**command, id="1")
        answer = self.receive("ok", "error")
        assert answer["type"] == "ok", f"{command} is answered by {answer}"
        return answer

    def close_code(self) -> int | None:
        """Wait for the end of the connection, and return its close code."""
        deadline = time.monotonic() + ANSWER_S
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._connection.recv(timeout=max(0.0, deadline - time.monotonic()))
        return self._connection.close_code


@contextlib.contextmanager
def running(project: Project, **settings: str) -> Iterator[Service]:
    """Yield the service of a copy of the project; it must end without an error."""
    with TemporaryDirectory() as directory:
        service = Service(project.copy(Path(directory, "project")), **settings)
        try:
            service.wait_until_ready()
            yield service
            service.stop()
        except (AssertionError, OSError, WebSocketException, subprocess.SubprocessError) as failure:
            msg = f"{failure or type(failure).__name__}\nThe service's log:\n{service.log()}"
            raise AssertionError(msg) from failure
        finally:
            service.end()
