"""A project's tools in a terminal: the chat, and the server that restarts."""

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from .checks.service import LISTENING, START_S, Service, is_ok, running
from .combination import DEFAULT, find
from .conftest import Baker
from .process import check_output, end_group, environment, run
from .project import Project
from .venv import venv_bin
from .waiting import wait_until

HELLO = """

@router.get("/hello")
async def hello() -> str:
    return "hello"
"""


LOCAL = 3
"""The index of the local modes in what `termios` returns."""


class Terminal:
    """A pseudoterminal, in which a program runs."""

    def __init__(self, command: Sequence[str | Path], directory: Path, **settings: str) -> None:
        self._controller, side = os.openpty()
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(TERM="xterm", **settings),
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        self.shown = ""

    def type(self, text: str) -> None:
        """Type, with a tab or a line feed for these keys."""
        os.write(self._controller, text.encode())

    def read(self) -> None:
        """Wait until the program writes something."""
        ready, _, _ = select.select([self._controller], [], [], START_S)
        assert ready, f"nothing follows:\n{self.shown}"
        self.shown += os.read(self._controller, 65_536).decode(errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until the program has written a text."""
        while text not in self.shown:
            self.read()

    def mode(self) -> list[Any]:
        """Return the mode of the terminal, such as whether it shows what is typed."""
        return termios.tcgetattr(self._controller)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal, by default that of Ctrl+C."""
        os.killpg(self._process.pid, number)

    def watches(self) -> list[str]:
        """Return what its processes watch by inotify; on Linux (proc_pid_fdinfo(5))."""
        lines: list[str] = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if os.getsid(int(process.name)) == self._process.pid:
                    for descriptor in (process / "fdinfo").iterdir():
                        lines += descriptor.read_text(encoding="ascii").splitlines()
        return [line for line in lines if line.startswith("inotify")]

    def wait(self) -> int:
        """Wait until the program ends by itself, and return its exit status."""
        return self._process.wait(START_S)

    def end(self) -> None:
        """End the program's process group, also if the program itself has ended."""
        end_group(self._process)
        os.close(self._controller)


@contextmanager
def terminal(command: Sequence[str | Path], directory: Path, **settings: str) -> Iterator[Terminal]:
    """Run a program in a terminal."""
    running = Terminal(command, directory, **settings)
    try:
        yield running
    finally:
        running.end()


def copy_with_environment(project: Project, directory: Path) -> Project:
    """Return a copy whose `make` finds everything installed."""
    copy = project.copy(directory)
    (copy.root / ".venv").symlink_to(venv_bin(project).parent)
    return copy


@contextmanager
def chatting(project: Project) -> Iterator[tuple[Service, Terminal]]:
    """Run the service, and the chat of alice in a terminal."""
    service = Service(project)
    try:
        service.wait_until_ready()
        command: list[str | Path] = [venv_bin(project) / "python", "-m", "dev.client", "alice"]
        with terminal(command, project.root, PORT=service.port) as chat:
            chat.wait_for("* online as alice")
            yield service, chat
    finally:
        service.end()


def test_the_chat_completes_commands(baked: Baker, tmp_path: Path) -> None:
    with chatting(baked(DEFAULT).copy(tmp_path / "project")) as (_, chat):
        chat.type("/jo\thall\n")
        chat.wait_for("/join hall")
        chat.wait_for("* in hall: alice")


def test_the_chat_shows_changes(baked: Baker, tmp_path: Path) -> None:
    with chatting(baked(DEFAULT).copy(tmp_path / "project")) as (service, chat):
        chat.type("/join hall\n")
        chat.wait_for("* in hall: alice")
        with service.client("bob") as bob:
            for info in ("here", "away"):
                bob.ask(type="join", room="hall", info=info)
            chat.wait_for('hall bob is now "away"')


def test_the_chat_goes_on_after_a_join_without_an_answer(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    code = project.read("dev/client.py")
    assert "JOIN_TIMEOUT_S = 10.0" in code
    project.write("dev/client.py", code.replace("JOIN_TIMEOUT_S = 10.0", "JOIN_TIMEOUT_S = 0.01"))
    with chatting(project) as (service, chat):
        service.end()
        chat.wait_for("* offline")
        chat.type("/join attic\n")
        chat.wait_for("! timeout: no answer to the join within 0.01 s")
        chat.type("/leave\n")
        chat.wait_for("! you are not in a room")


def test_the_chat_ends_while_a_join_waits(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    code = project.read("dev/client.py")
    begin = "            async with asyncio.timeout(JOIN_TIMEOUT_S):\n"
    assert begin in code
    told = f'{begin}                print("* joining", flush=True)\n'
    project.write("dev/client.py", code.replace(begin, told))
    with chatting(project) as (service, chat):
        service.end()
        chat.wait_for("* offline")
        chat.type("/join attic\n")
        chat.wait_for("* joining")
        chat.interrupt()
        assert chat.wait() == 0
        with suppress(OSError):  # the program has closed the terminal
            while select.select([chat._controller], [], [], 0)[0]:
                chat.read()
        assert "Traceback" not in chat.shown


DEEP = '{"type": "ping", "data": ' + "[" * 100_000


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_chat_goes_on_after_a_line_that_it_cannot_send_or_show(
    baked: Baker, tmp_path: Path, encoding: str
) -> None:
    project = baked(DEFAULT)
    cup = r'{"type": "broadcast", "data": "\u2615", "echo": true}'
    typed = tmp_path / "typed"
    typed.write_bytes(b"\xff\n" + f"/ping\n{DEEP}\n/ping\n{cup}\n/ping\n".encode())
    with running(project) as service:
        chat = f"timeout {START_S} {venv_bin(project) / 'python'} -m dev.client alice"
        shown = service.shell(f"PYTHONIOENCODING={encoding}:strict {chat} <{typed} 2>&1")
    assert shown.count("! that is no command: ") == 2
    assert shown.count(" ms\n") == 3
    assert "\u2615".encode(encoding, "backslashreplace").decode(encoding) in shown
    assert "Traceback" not in shown


SIGNALS = {"ctrl+c": signal.SIGINT, "sigterm": signal.SIGTERM, "sighup": signal.SIGHUP}


@pytest.mark.parametrize("cause", [*SIGNALS, "ctrl+d", "ban"])
def test_the_chat_ends_without_another_line(baked: Baker, tmp_path: Path, cause: str) -> None:
    with chatting(baked(DEFAULT).copy(tmp_path / "project")) as (service, chat):
        # `input` waits for the next line, in its own mode of the terminal.
        chat.type("/ping\n")
        chat.wait_for(" ms")
        wait_until(lambda: not chat.mode()[LOCAL] & termios.ICANON, told=lambda: chat.shown)
        if cause in SIGNALS:
            chat.interrupt(SIGNALS[cause])
        elif cause == "ctrl+d":
            chat.type("\x04")
        else:
            ban = '{"user": "alice", "ban_s": 60}'
            service.shell(
                f". ./.env; curl --fail http://127.0.0.1:{service.port}/disconnect"
                f""" -H "Authorization: Bearer $BACKEND_KEY" -d '{ban}'"""
            )
            chat.wait_for("error: ")
        assert chat.wait() == (cause == "ban")
        for flag in (termios.ICANON, termios.ECHO):
            assert chat.mode()[LOCAL] & flag
        assert "Traceback" not in chat.shown


def save(project: Project, name: str, text: str) -> None:
    """Replace a file by a new one, as most editors do: writing into it may count as two changes."""
    new = project.root / "new"  # where no change counts
    new.write_text(text, encoding="utf-8")
    new.replace(project.root / name)


def test_the_server_restarts_when_the_code_or_its_settings_change(
    baked: Baker, tmp_path: Path
) -> None:
    project = copy_with_environment(baked(DEFAULT), tmp_path / "project")
    command = ["make", "--assume-old=.venv/ready", "dev"]
    with terminal(command, project.root, HOST="127.0.0.1", PORT="0", REDIS_URL="") as server:
        while not LISTENING.search(server.shown):
            server.read()
        save(project, "app/routes.py", project.read("app/routes.py") + HELLO)
        while len(ports := LISTENING.findall(server.shown)) < 2:
            server.read()
        wait_until(lambda: is_ok("127.0.0.1", int(ports[1]), "/hello"), told=lambda: server.shown)
        for starts in (3, 4):
            save(project, ".env", project.read(".env") + "\n")
            while len(LISTENING.findall(server.shown)) < starts:
                server.read()
        if sys.platform == "linux":
            watched = [project.root, *(project.root / "app").glob("**/")]
            assert 0 < len(server.watches()) <= len(watched)
        server.interrupt()
        with suppress(OSError):  # all processes have ended
            while True:
                server.read()
        assert server.shown.count("Finished server process") == 4
        assert "Traceback" not in server.shown


def test_the_end_of_the_service_is_told_once_and_a_change_restarts_it(
    baked: Baker, tmp_path: Path
) -> None:
    project = copy_with_environment(baked(DEFAULT), tmp_path / "project")
    routes = project.read("app/routes.py")
    project.write("app/routes.py", "raise SystemExit(3)\n")
    command = ["make", "--assume-old=.venv/ready", "dev"]
    with terminal(command, project.root, HOST="127.0.0.1", PORT="0", REDIS_URL="") as server:
        server.wait_for("the service has ended with status 3; it starts again at a change")
        for starts, code in enumerate((routes, routes + HELLO), start=1):
            save(project, "app/routes.py", code)
            while len(LISTENING.findall(server.shown)) < starts:
                server.read()
        server.interrupt()
        with suppress(OSError):  # all processes have ended
            while True:
                server.read()
        assert server.shown.count("the service has ended") == 1


def test_a_first_env_file_that_cannot_be_written_leaves_none(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    before = project.files()
    command = f"ulimit -f 0; exec {venv_bin(project) / 'python'} -B -m dev.env"
    made = run(["sh", "-c", command], project.root)
    assert "File too large" in made.stderr
    assert project.files() == before


def test_claims_that_are_nested_too_deeply_are_told_in_one_line(baked: Baker) -> None:
    project = baked(DEFAULT)
    command = [str(venv_bin(project) / "python"), "-B", "-m", "dev.token", "alice", "[" * 100_000]
    refused = run(command, project.root, env=environment(JWT_SECRET="jwt-secret" * 4))
    assert refused.stderr.startswith("error: CLAIMS is not a JSON object: [[")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("stage", ["development", "production"])
def test_a_token_is_printed_with_a_link_where_the_page_is_on(baked: Baker, stage: str) -> None:
    project = baked(DEFAULT)
    command = [str(venv_bin(project) / "python"), "-B", "-m", "dev.token", "alice"]
    env = environment(JWT_SECRET="jwt-secret" * 4, ENVIRONMENT=stage)
    printed = run(command, project.root, env=env)
    assert ("/#token=" in printed.stdout) == (stage == "development")
    assert printed.stdout.splitlines()[-1].startswith("new WebSocket(")


@pytest.mark.parametrize("module", ["dev.token", "dev.client"])
@pytest.mark.parametrize("auth", ["jwt", "ticket", "session", "api_key"])
def test_a_name_that_no_user_may_have_is_refused_in_one_line(
    baked: Baker, tmp_path: Path, auth: str, module: str
) -> None:
    project = baked(find(auth)).copy(tmp_path / "project")
    python = venv_bin(project) / "python"
    check_output([python, "-m", "dev.env"], project.root)
    refused = run([python, "-m", module, "alice\n"], project.root, timeout_s=START_S)
    assert refused.returncode == 1
    assert refused.stdout == ""
    line = "error: NAME: the user's name is not 1 to 128 visible characters; write NAME=alice\n"
    assert refused.stderr == line


@pytest.mark.parametrize("module", ["dev.token", "dev.client"])
def test_a_refused_request_for_a_ticket_is_told_in_one_line(baked: Baker, module: str) -> None:
    project = baked(find("ticket"))
    command = f"{venv_bin(project) / 'python'} -m {module}"
    other = "BACKEND_KEY=another-key-0123456789abcdefghijkl"
    with running(project) as service:
        key = service.shell(f"{other} {command} alice 2>&1 || true").splitlines()
    assert [line.partition(";")[0] for line in key] == [
        "error: the service answers 401 to POST /tickets"
    ]
