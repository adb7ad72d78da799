"""The proxies in the documents and in ``compose.yaml`` work, with a real service behind them."""

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from websockets.exceptions import InvalidStatus, WebSocketException

from .checks.service import Service, running
from .combination import DEFAULT, find
from .conftest import Baker
from .process import end_group, environment
from .project import Project
from .waiting import wait_until

CLIENT = "127.0.0.2"
"""Address of the clients; the proxy reaches the service from 127.0.0.1."""

DEADLINE_S = 90.0

NGINX = """\
daemon off;
pid {directory}/nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    {site}
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def reserved_port() -> Iterator[str]:
    """Reserve a port, on which a proxy may listen with ``SO_REUSEPORT``."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield str(reserved.getsockname()[1])


@contextlib.contextmanager
def run_proxy(
    program: str, text: str, port: str, directory: Path, **variables: str
) -> Iterator[None]:
    """Run nginx or Caddy with a configuration until it listens, or skip the test without it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs a proxy: apt-get install {program}")
    file = directory / f"{program}.conf"
    file.write_text(text, encoding="utf-8")
    arguments = {
        "nginx": ["-p", directory, "-e", "stderr", "-c", file],
        "caddy": ["run", "--config", file, "--adapter", "caddyfile"],
    }[program]
    with (directory / "proxy.log").open("w+") as log:
        process = subprocess.Popen(
            [path, *map(str, arguments)],
            cwd=directory,
            env=environment(HOME=str(directory), **variables),
            stdout=log,
            stderr=log,
            encoding="utf-8",
            process_group=0,
        )
        try:
            printed = partial((directory / "proxy.log").read_text, encoding="utf-8")
            wait_until(lambda: process.poll() is not None or listens(port), told=printed)
            assert process.poll() is None, printed()
            yield
        finally:
            end_group(process)


def listens(port: str) -> bool:
    """Return whether a server takes connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", int(port)), DEADLINE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Return the text with each replacement; every one must apply."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} is missing in the configuration"
        text = text.replace(old, new)
    return text


def nginx_text(project: Project, port: str, nodes: list[str], directory: Path) -> str:
    """Return nginx's configuration with this site: on this port, without TLS."""
    changes = {
        "443 ssl": f"127.0.0.1:{port} reuseport",
        "    ssl_certificate /etc/ssl/example.com.pem;\n": "",
        "    ssl_certificate_key /etc/ssl/example.com.key;\n": "",
        "127.0.0.1:8000": f"127.0.0.1:{nodes[0]}",
    }
    if "redis" in project.combination.options:
        changes["127.0.0.1:8001"] = f"127.0.0.1:{nodes[-1]}"
    site = replaced(project.read("deploy/nginx.conf"), changes)
    temporary = "".join(f"{name}_temp_path {directory}/{name};" for name in TEMPORARY)
    return NGINX.format(directory=directory, temporary=temporary, site=site)


PROGRAMS = ("nginx", "caddy")


@contextlib.contextmanager
def run_shipped(
    program: str,
    project: Project,
    nodes: list[str],
    directory: Path,
    changes: dict[str, str] | None = None,
) -> Iterator[str]:
    """Run a proxy with the project's file before nodes on these ports, and yield its port."""
    with reserved_port() as port:
        addresses = {}
        if program == "nginx":
            text = nginx_text(project, port, nodes, directory)
        else:
            text = project.read("deploy/Caddyfile")
            addresses["SITE"] = f"http://127.0.0.1:{port}"
            addresses["UPSTREAMS"] = " ".join(f"127.0.0.1:{node}" for node in nodes)
        text = replaced(text, changes or {})
        with run_proxy(program, text, port, directory, **addresses):
            yield port


def assert_client_address(service: Service, port: str) -> None:
    """Connect with a forged address; the service must log the client's own."""
    forged = {"X-Forwarded-For": "203.0.113.9"}
    with service.client("alice", port, headers=forged, source_address=(CLIENT, 0)) as alice:
        alice.send(type="broadcast", data="hello", echo=True)
        assert alice.receive("message")["data"] == "hello"
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    assert {line["client"] for line in lines if line["event"] == "connection opened"} == {CLIENT}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_proxy_passes_on_client_addresses(baked: Baker, tmp_path: Path, program: str) -> None:
    project = baked(DEFAULT)
    with (
        running(project, ENVIRONMENT="production") as service,
        run_shipped(program, project, [service.port], tmp_path) as port,
    ):
        assert_client_address(service, port)


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_the_websocket_route_is_public(baked: Baker, tmp_path: Path, program: str) -> None:
    project = baked(find("ticket"))
    routes = [("POST", "/publish"), ("POST", "/disconnect"), ("POST", "/tickets")]
    routes += [("GET", "/metrics"), ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/docs")]
    with (
        running(project) as service,
        run_shipped(program, project, [service.port], tmp_path) as port,
    ):
        for method, path in routes:
            assert status(service.port, method, path) != http.HTTPStatus.NOT_FOUND
            for public in (path, f"{path}/ws", f"/ws/..{path}", f"/ws{path}"):
                assert status(port, method, public) == http.HTTPStatus.NOT_FOUND


def status(port: str, method: str, path: str) -> int:
    """Return the status of the answer to a request without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=DEADLINE_S)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


def seconds(pattern: str, text: str) -> float:
    """Return the one number of seconds that a pattern finds."""
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("name", ["jwt-heartbeat", "jwt"])
def test_the_timeout_is_longer_than_two_pings(baked: Baker, name: str) -> None:
    project = baked(find(name))
    kind = "HEARTBEAT" if "heartbeat" in name else "WS_PING"
    example = project.read(".env.example")
    interval_s = seconds(rf"^#{kind}_INTERVAL_S=(\S+)", example)
    site = project.read("deploy/nginx.conf")
    for setting in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(rf"{setting} (\d+)s;", site) > 2 * interval_s


SHORT_TIMEOUT = {"90s": "6s"}
SHORT_INTERVAL_S = "0.5"
PINGS = 24
"""Together they take twice the timeout."""


def test_pings_keep_a_silent_connection_open(baked: Baker, tmp_path: Path) -> None:
    project = baked(find("jwt-heartbeat"))
    with (
        running(project, HEARTBEAT_INTERVAL_S=SHORT_INTERVAL_S) as service,
        run_shipped("nginx", project, [service.port], tmp_path, SHORT_TIMEOUT) as port,
        service.client("alice", port) as alice,
    ):
        for _ in range(PINGS):
            alice.receive("ping")
            alice.send(type="pong")
        alice.ask(type="broadcast", data="still here")


def test_without_pings_nginx_closes_a_silent_connection(baked: Baker, tmp_path: Path) -> None:
    project = baked(find("jwt-heartbeat"))
    with (
        running(project) as service,
        run_shipped("nginx", project, [service.port], tmp_path, SHORT_TIMEOUT) as port,
        service.client("alice", port) as alice,
    ):
        assert alice.close_code() == 1006


class NotReady(BaseHTTPRequestHandler):
    """A node that is not ready, and refuses clients."""

    def do_GET(self) -> None:
        """Refuse."""
        self.send_error(http.HTTPStatus.SERVICE_UNAVAILABLE)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def node_not_ready() -> Iterator[str]:
    """Run a node that is not ready, and yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NotReady) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_the_composed_proxy_has_a_site_and_the_nodes(baked: Baker) -> None:
    services = yaml.safe_load(baked(DEFAULT).read("compose.yaml"))["services"]
    proxy = services["proxy"]
    nodes = {name for name in services if name.startswith("node")}
    assert proxy["volumes"] == ["./deploy/Caddyfile:/etc/caddy/Caddyfile:ro"]
    assert proxy["ports"][0].endswith(proxy["environment"]["SITE"])
    addresses = dict(address.split(":") for address in proxy["environment"]["UPSTREAMS"].split())
    assert addresses == dict.fromkeys(nodes, services["node-a"]["environment"]["PORT"])


def composed_settings(project: Project) -> dict[str, str]:
    """Return a node's settings in ``compose.yaml``, but for where it and Redis listen."""
    services = yaml.safe_load(project.read("compose.yaml"))["services"]
    settings: dict[str, str] = services["node-a"]["environment"]
    own = {"HOST", "PORT", "REDIS_URL"}
    return {name: value for name, value in settings.items() if name not in own}


@pytest.mark.parametrize("program", PROGRAMS)
def test_composed_nodes_get_client_addresses(baked: Baker, tmp_path: Path, program: str) -> None:
    project = baked(DEFAULT)
    settings = composed_settings(project) | {"CLIENTS_MAY_BROADCAST": "true"}
    with (
        running(project, **settings) as service,
        reserved_port() as unreachable,
        run_shipped(program, project, [unreachable, service.port], tmp_path) as port,
    ):
        for _ in range(4):
            assert_client_address(service, port)


IN_A_ROW = 40
"""A proxy that picks one of two nodes at random does not pick the same one so often."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_node_that_is_not_ready_gets_no_clients(
    baked: Baker, tmp_path: Path, program: str
) -> None:
    project = baked(DEFAULT)
    with (
        running(project, **composed_settings(project)) as service,
        node_not_ready() as other,
        run_shipped(program, project, [other, service.port], tmp_path) as port,
    ):
        deadline = time.monotonic() + DEADLINE_S
        accepted = 0
        while accepted < IN_A_ROW:
            assert time.monotonic() < deadline, f"{accepted} clients in a row were accepted"
            try:
                with service.client("alice", port):
                    accepted += 1
            except WebSocketException:  # the proxy does not know yet
                accepted = 0


AT_ONCE = 16
"""Handshakes at once. However slow the machine is, some come before the next one is allowed."""

ACCEPTED = (101, None)
REFUSED = (503, "1")


def handshake(service: Service, port: str) -> tuple[int, str | None]:
    """Connect through a proxy; return the status of the answer, and its ``Retry-After``."""
    try:
        with service.client("alice", port):
            return ACCEPTED
    except InvalidStatus as refusal:
        return refusal.response.status_code, refusal.response.headers.get("Retry-After")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_node_with_too_many_handshakes_gets_the_next_clients(
    baked: Baker, tmp_path: Path, program: str
) -> None:
    project = baked(DEFAULT)
    # Then a proxy that leaves a node out answers at once, and by itself: without `Retry-After`.
    at_once = {"lb_try_duration 5s": "lb_try_duration 0s", "health_timeout 3s": "health_timeout 1m"}
    changes = at_once if program == "caddy" else None
    with (
        running(project, **composed_settings(project), MAX_HANDSHAKES_PER_S="1") as service,
        run_shipped(program, project, [service.port] * 2, tmp_path, changes) as port,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        service.connect_options("alice")  # not from several threads at once
        deadline = time.monotonic() + DEADLINE_S
        for _ in range(2):
            answers = set(pool.map(lambda _: handshake(service, port), range(AT_ONCE)))
            assert REFUSED in answers
            while (answer := handshake(service, port)) != ACCEPTED:
                answers.add(answer)
                assert time.monotonic() < deadline, answers
                time.sleep(0.02)
            assert answers <= {ACCEPTED, REFUSED}
