"""The servers that a project's documents name serve it, with the limit of a message."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .checks.service import is_ok
from .combination import find
from .conftest import Baker
from .process import check_output, end_group, environment
from .project import Project
from .venv import add_packages, copy_venv
from .waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.xdist_group("servers")

PACKAGES = ("fastapi-cli==0.0.34", "gunicorn==27.0.1", "uvicorn-worker==0.4.0")

UVICORN = ("uvicorn", "--port=0", "--ws-max-size=65536", "--ws-per-message-deflate=false")
COMMANDS = {
    "uvicorn": (*UVICORN, "app.main:app"),
    "uvicorn with a factory": (*UVICORN, "--factory", "app.main:create_app"),
    "fastapi dev": ("fastapi", "dev", "--port=0"),
    "gunicorn": (
        *("gunicorn", "app.main:app", "--bind=127.0.0.1:0", "--no-control-socket"),
        "--worker-class=uvicorn_worker.UvicornWorker",
    ),
}

LISTENING = re.compile(r"http://127\.0\.0\.1:([1-9]\d*)")
MESSAGE_BYTES = 65_536


@pytest.fixture(scope="module")
def project(baked: Baker, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with other servers in its environment."""
    project = baked(find("none")).copy(tmp_path_factory.mktemp("servers") / "project")
    copy_venv(project)
    add_packages(project, *PACKAGES)
    check_output([project.root / ".venv/bin/python", "-m", "dev.env"], project.root)
    return project


@contextmanager
def served(project: Project, command: tuple[str, ...], directory: Path) -> Iterator[str]:
    """Run a server, and yield its port."""
    program, *arguments = command
    python = project.root / ".venv/bin/python"
    log = directory / "server.log"
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            [python, python.with_name(program), *arguments],
            cwd=project.root,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):
        try:
            wait_until(
                lambda: process.poll() is not None or LISTENING.search(log.read_text("utf-8")),
                told=lambda: log.read_text("utf-8"),
            )
            found = LISTENING.search(log.read_text("utf-8"))
            assert found, log.read_text("utf-8")
            # A process that watches the files tells the port before the one that serves has it.
            wait_until(
                lambda: is_ok("127.0.0.1", int(found[1]), "/livez"),
                told=lambda: log.read_text("utf-8"),
            )
            yield found[1]
        finally:
            end_group(process)


@pytest.mark.parametrize("name", COMMANDS)
def test_another_server_serves_the_app(project: Project, tmp_path: Path, name: str) -> None:
    with (
        served(project, COMMANDS[name], tmp_path) as port,
        connect(f"ws://127.0.0.1:{port}/ws", proxy=None, open_timeout=DEADLINE_S) as client,
    ):
        welcome = json.loads(client.recv(DEADLINE_S))
        assert welcome["type"] == "welcome"
        assert welcome["limits"]["message_bytes"] == MESSAGE_BYTES
        client.send(json.dumps({"type": "ping", "id": "1"}))
        assert json.loads(client.recv(DEADLINE_S)) == {"type": "pong", "id": "1"}
        client.send("x" * (MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
