"""The servers in the comparison, and their start."""

import base64
import hmac
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.process import environment

from .compiler import compiled
from .environment import (
    CACHE,
    PEERS,
    PEERS_LOCK,
    lock_python,
    node_package,
    service,
    service_python,
    valkey_server,
)
from .load import Dialect, Expect, Send
from .processes import Process, Program

ONE_DAY_S = 86_400
MAX_CONNECTIONS = 20_000
NO_LIMIT = 1_000_000_000
"""A limit that no client reaches: it is checked, but never refuses."""
JWT_SECRET = secrets.token_urlsafe(32)

JSON = Dialect()
SERVICE = Dialect(
    greeting=(Expect('"welcome"'),),
    envelope='{"type":"broadcast","echo":true,"data":{data}}',
    asked='{"type":"ping"',
    answer='{"type":"pong"}',
)


def room(name: str, fields: str = "") -> Dialect:
    """Return a dialect whose clients join a room, and publish in it with further fields."""
    join = '{"type":"join","room":"NAME","id":"{i}"}'.replace("NAME", name)
    publish = '{"type":"publish","room":"NAME","echo":true,FIELDS"data":{data}}'
    publish = publish.replace("NAME", name).replace("FIELDS", fields)
    greeting = (*SERVICE.greeting, Send(join), Expect('"ok"'))
    return replace(SERVICE, greeting=greeting, envelope=publish)


SERVICE_ROOM = room("benchmark")
SERVICE_FLOOD = room("flood")
SERVICE_STREAMS = room("stream-{i}")
SERVICE_EPHEMERAL = room("benchmark", '"keep":false,')
SERVICE_ECHO = Dialect(
    greeting=SERVICE.greeting,
    envelope='{"type":"send","to":"user-{i}","data":{data}}',
    asked=SERVICE.asked,
    answer=SERVICE.answer,
)
SERVICE_PINGS = replace(SERVICE, envelope='{"type":"ping","id":{data}}')


def _filled(name: str, messages: int) -> Dialect:
    """Return a dialect whose clients publish ``messages`` messages in a room as their greeting."""
    publish = json.dumps({"type": "publish", "room": name, "data": "x" * 128, "id": "filled"})
    joined = room(name)
    filling = (Send(publish), Expect('"filled"')) * messages
    return replace(joined, greeting=(*joined.greeting, *filling))


def _joins(last: int) -> Dialect:
    """Return a dialect whose clients leave a room, join it with the last messages, and repeat."""
    join = '{"type":"join","room":"joins","last":LAST,"id":{data}}'.replace("LAST", str(last))
    first = Send(join.replace("{data}", '"first"'))
    return replace(
        SERVICE,
        greeting=(*SERVICE.greeting, first, Expect(f'"replayed":{last}')),
        envelope=join,
        before='{"type":"leave","room":"joins"}',
    )


SERVICE_FILLED = _filled("joins", 50)
SERVICE_JOINS = _joins(0)
SERVICE_JOINS_WITH_LAST = _joins(50)


# Engine.IO 4 and Socket.IO 5: https://socket.io/docs/v4/socket-io-protocol/
SOCKET_IO = Dialect(
    greeting=(Expect("0{"), Send("40"), Expect("40"), Send('420["join"]'), Expect("430")),
    envelope='42["message",{data}]',
    asked="2",
    answer="3",
)
SOCKET_IO_PATH = "/socket.io/?EIO=4&transport=websocket"


@dataclass(frozen=True, slots=True)
class Server:
    """A server: its description, start and protocol. ``{i}`` is a connection's number."""

    name: str
    title: str
    what: str
    prepare: Callable[[], Program]
    """Install the server, and return its command."""
    dialect: Dialect = JSON
    path: str = "/ws/{i}"
    echo: Dialect = JSON
    echo_path: str = "/echo"
    ready_path: str | None = None
    headers: Callable[[int], dict[str, str]] | None = None
    packages: tuple[str, ...] = ()
    """The Python packages whose versions are reported."""


def authorization(number: int) -> dict[str, str]:
    """Return a header with a token for a user of this number."""
    return authorization_of(f"user-{number}")


def authorization_of(user: str) -> dict[str, str]:
    """Return a header with a token for a user, valid for a day (RFC 7515)."""
    claims = {"sub": user, "exp": int(time.time()) + ONE_DAY_S}
    parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims)]
    signed = b".".join(parts)
    signature = _base64(hmac.digest(JWT_SECRET.encode(), signed, "sha256"))
    return {"Authorization": f"Bearer {(signed + b'.' + signature).decode()}"}


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _limited_service(**settings: str) -> Program:
    return Program(
        (str(service_python()), "-m", "tests.realtime.engine"),
        service(),
        environment(PORT="0", LOG_LEVEL="WARNING", JWT_SECRET=JWT_SECRET, **settings),
    )


def _service() -> Program:
    return _limited_service(
        CLIENTS_MAY_BROADCAST="true",
        MAX_HANDSHAKES_PER_S=str(NO_LIMIT),
        MAX_HANDSHAKES_PER_S_PER_ADDRESS=str(NO_LIMIT),
        MAX_CONNECTIONS=str(MAX_CONNECTIONS),
        MAX_CONNECTIONS_PER_ADDRESS=str(MAX_CONNECTIONS),
        MAX_CONNECTIONS_PER_USER=str(MAX_CONNECTIONS),
        MAX_MESSAGES_PER_S=str(NO_LIMIT),
        MAX_BYTES_PER_S=str(NO_LIMIT),
        MAX_MESSAGES_PER_S_PER_USER=str(NO_LIMIT),
        MAX_BYTES_PER_S_PER_USER=str(NO_LIMIT),
        MAX_BYTES_PER_S_PER_TARGET=str(NO_LIMIT),
    )


def _uvicorn(python: Callable[[], Path], app: str, **env: str) -> Callable[[], Program]:
    """Return a `prepare` for an ASGI app on uvicorn, with the log level of the service."""

    def prepare() -> Program:
        address = ("--host", "127.0.0.1", "--port", "0")
        command = ("-m", "uvicorn", f"{app}:app", *address, "--log-level", "warning")
        return Program((str(python()), *command), PEERS, environment(**env))

    return prepare


def _peers_python() -> Path:
    return lock_python(PEERS_LOCK)


def _websockets() -> Program:
    command = (str(service_python()), "websockets_broadcast.py", "0")
    return Program(command, PEERS, environment())


def _node(package: str) -> Callable[[], Program]:
    return lambda: Program(("node", "server.js", "0"), node_package(package), environment())


def _epoll_loop() -> Program:
    return Program((str(compiled(PEERS / "epoll_loop.c")), "0"), CACHE, environment())


THIS = Server(
    "service",
    "this service",
    "the project with the default answers: tokens, rooms, heartbeat, Redis",
    _service,
    SERVICE,
    path="/ws",
    echo=SERVICE_ECHO,
    echo_path="/ws",
    ready_path="/readyz",
    headers=authorization,
    packages=("fastapi", "starlette", "uvicorn", "uvloop", "websockets", "pydantic", "redis"),
)
THIS_LIMITED = replace(
    THIS, name="limited", title="this service, limited", prepare=_limited_service
)
"""The service with the limits that it has by default."""
THIS_LIMITED_EXCEPT_HANDSHAKES = replace(
    THIS_LIMITED,
    prepare=lambda: _limited_service(
        MAX_HANDSHAKES_PER_S=str(NO_LIMIT), MAX_HANDSHAKES_PER_S_PER_ADDRESS=str(NO_LIMIT)
    ),
)
THIS_TWICE = replace(
    THIS,
    name="two-processes",
    title="2 processes",
    prepare=lambda: _service().with_environment({"WORKERS": "2"}),
)
MANAGER = Server(
    "manager",
    "FastAPI manager",
    "the `ConnectionManager` of FastAPI's documentation, with `send_json` for each member",
    _uvicorn(service_python, "fastapi_manager"),
)
MANAGER_ONCE = Server(
    "manager-once",
    "FastAPI, encoding once",
    "the same `ConnectionManager`, encoding each message once",
    _uvicorn(service_python, "fastapi_manager", ENCODE="once"),
)
MANAGER_REDIS = Server(
    "manager-redis",
    "FastAPI manager, Redis",
    "the same `ConnectionManager`, with one `PUBLISH` per message and one subscriber task",
    _uvicorn(service_python, "fastapi_redis"),
)
WEBSOCKETS = Server(
    "websockets", "websockets", "the library's own server, with `broadcast()`", _websockets
)
NODE_WS = Server("node-ws", "Node ws", "the broadcast in the README of `ws`", _node("node_ws"))
C_LOOP = Server(
    "c-loop",
    "C loop",
    "one epoll loop in C, one write for each message and member: the cost of the kernel",
    _epoll_loop,
)
LITESTAR = Server(
    "litestar",
    "Litestar channels",
    "its channels plugin, with the backend in memory",
    _uvicorn(_peers_python, "litestar_channels"),
    packages=("litestar",),
)
BROADCASTER = Server(
    "broadcaster",
    "FastAPI broadcaster",
    "the `broadcaster` library, in memory",
    _uvicorn(_peers_python, "fastapi_broadcaster"),
    packages=("broadcaster",),
)
CHANNELS = Server(
    "channels",
    "Django Channels",
    "a group, with the layer in memory, on uvicorn",
    _uvicorn(_peers_python, "django_channels"),
    packages=("channels", "django"),
)
SOCKETIO = Server(
    "python-socketio",
    "python-socketio",
    "a room, on uvicorn",
    _uvicorn(_peers_python, "socketio_room"),
    SOCKET_IO,
    SOCKET_IO_PATH,
    packages=("python-socketio",),
)
NODE_SOCKETIO = Server(
    "node-socketio",
    "Node Socket.IO",
    "a room",
    _node("node_socketio"),
    SOCKET_IO,
    SOCKET_IO_PATH,
)


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of a server, all on the same core."""

    core: int | None
    ports: list[int]
    pids: list[int]
    redis_url: str = ""


@contextmanager
def running(
    server: Server, core: int | None, *, processes: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a server.

    Raises:
        Failed: it does not become ready.
        Unavailable: it cannot be installed.
    """
    program = server.prepare().with_environment(env or {})
    with ExitStack() as stack:
        started = []
        for number in range(processes):
            process = Process(program, f"{server.name}-{number}", core)
            stack.callback(process.stop)
            started.append(process)
        ports = [process.wait_for_port(server.ready_path) for process in started]
        pids = [pid for process in started for pid in process.workers]
        yield Running(core, ports, pids, program.env.get("REDIS_URL", ""))


@contextmanager
def running_valkey(core: int | None) -> Iterator[str]:
    """Run a Redis server without persistence, and yield its URL.

    Raises:
        Failed: it does not start.
        Unavailable: none is installed.
    """
    # The path of a socket is limited to about 100 characters, so it is not in the cache.
    with TemporaryDirectory() as directory, ExitStack() as stack:
        path = Path(directory, "valkey.sock")
        command = (valkey_server(), "--port", "0", "--unixsocket", str(path), "--save", "")
        process = Process(Program(command, Path(directory), environment()), "valkey", core)
        stack.callback(process.stop)
        process.wait_until(path.exists)
        yield f"unix://{path}"


def ask_redis(url: str, command: str) -> str:
    """Return the answer of a Redis server at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(url.removeprefix("unix://"))
        connection.sendall(f"{command}\r\nQUIT\r\n".encode())
        return connection.makefile(encoding="ascii").read()


def redis_memory_bytes(url: str) -> int:
    """Return the memory that a Redis server uses."""
    answer = ask_redis(url, "INFO memory")
    return int(answer.partition("used_memory:")[2].split()[0])
