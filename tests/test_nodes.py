"""`make run` of a project with Redis serves on two nodes, which end with it."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from .browser import FULL_SPEED, browser
from .checks.service import LISTENING, Service, is_ok
from .combination import DEFAULT, find
from .conftest import Baker
from .project import Project
from .test_page import SCRIPT, check_quiet, open_page
from .waiting import wait_until

NODES = "jwt-redis"
BOTH = "/^(alice,bob|bob,alice)$/"


def ports(service: Service) -> list[str]:
    """Return the ports of the nodes, by the links to them."""
    return re.findall(r"^http://127\.0\.0\.1:(\d+)/#node=\d+$", service.log(), re.MULTILINE)


def are_ready(service: Service) -> bool:
    """Return whether two nodes are ready on their ports."""
    found = ports(service)
    return len(found) == 2 and all(is_ok("127.0.0.1", int(port), "/readyz") for port in found)


def both_run(service: Service) -> bool:
    """Return whether two nodes have logged that they run."""
    return service.log().count("Uvicorn running") == 2


def children(process: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return list(map(int, listed.split()))


def is_running(process: int) -> bool:
    """Return whether a process with this id is there."""
    return Path(f"/proc/{process}").exists()


def end_nodes(service: Service) -> None:
    """End a service that may still run: by SIGTERM, which ends its nodes and their server, too."""
    with suppress(AssertionError):
        service.stop()
    service.end()


STARTS = 3
TAKEN = "address already in use"


@contextmanager
def started(
    project: Project, condition: Callable[[Service], bool] = are_ready, **settings: str
) -> Iterator[Service]:
    """Run two nodes, and yield them when a condition is met.

    Their ports are free when they are chosen. If another process takes one before a node listens,
    all start again.
    """
    with ExitStack() as stack:
        for _ in range(STARTS):
            service = Service(project, "dev.nodes", REDIS_URL="", **settings)
            stack.callback(end_nodes, service)
            if becomes(service, condition):
                yield service
                return
            (project.root / ".env").unlink()  # each start writes a first one
    pytest.fail(f"{STARTS} times, another process has taken a port")


def becomes(service: Service, condition: Callable[[Service], bool]) -> bool:
    """Wait until a condition is met; return whether it is, and no port was taken."""
    wait_until(lambda: service.has_ended() or condition(service), told=service.log)
    if not service.has_ended():
        return True
    assert TAKEN in service.log(), service.log()
    return False


@contextmanager
def two_nodes(project: Project) -> Iterator[tuple[Service, str, str]]:
    """Run two nodes, and yield them with their ports when both are ready."""
    with started(project, REDIS_TIMEOUT_S="20") as service:
        try:
            first, second = ports(service)
            yield service, first, second
        finally:
            service.stop()  # its nodes and their server end with it


def test_two_nodes_share_a_server_that_ends_with_them(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(NODES)).copy(tmp_path / "project")
    project.write("dump.rdb", "the data of another server")
    with two_nodes(project) as (service, first, second):
        processes = children(service.pid)
        assert len(processes) == 3
        with service.client("alice", first) as alice, service.client("bob", second) as bob:
            alice.ask(type="send", to="bob", data="hello")
            assert bob.receive("message")["data"] == "hello"
        service.stop()
        assert not any(map(is_running, processes))


def test_the_pages_of_two_nodes_chat_in_a_room(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    with (
        browser(tmp_path / "profile", *FULL_SPEED) as chrome,
        two_nodes(project) as (_, first, second),
    ):
        origins = {"alice": f"http://127.0.0.1:{first}", "bob": f"http://localhost:{second}"}
        links = {"alice": f"#node={second}", "bob": f"#node={first}"}
        pages = {user: open_page(chrome, origins[user], links[user]) for user in origins}
        for user, page in pages.items():
            page.call("Page.reload")  # the address keeps the link
            page.wait_until("globalThis.document.querySelector('#palette form')")
            page.run(SCRIPT)
            page.run(f"fill('Name', '{user}'); press('Connect')")
            page.wait_until(f"text('#state') === 'Online as {user}'")
            page.run("press('Join')")
            page.wait_until("/ here/.test(text('article'))")
        link = pages["alice"].run("return document.querySelector('#another + p a').href")
        assert link == f"http://127.0.0.1:{second}/#node={first}"
        for page in pages.values():
            page.wait_until(f"{BOTH}.test(members())")
        pages["alice"].run("fill('Message', 'hello'); press('Publish')")
        for user, page in pages.items():
            page.wait_until("said() === 'alice hello'")
            check_quiet(page, origins[user])


def test_the_end_of_a_node_ends_the_other(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(NODES)).copy(tmp_path / "project")
    with started(project) as service:
        _, node, other = children(service.pid)
        os.kill(node, 9)
        assert service.wait() == 1
        assert not is_running(other)


def test_nodes_that_are_starting_end_without_a_traceback(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(NODES)).copy(tmp_path / "project")
    with started(project, lambda service: len(children(service.pid)) == 3) as service:
        processes = children(service.pid)
        service.stop()
        assert not any(map(is_running, processes))
        assert "Traceback" not in service.log()


def test_a_valkey_that_does_not_start_is_reported(baked: Baker, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\necho out of order\nexit 1\n", encoding="utf-8")
    server.chmod(0o755)
    project = baked(find(NODES)).copy(tmp_path / "project")
    path = f"{tmp_path}:{os.environ['PATH']}"
    service = Service(project, "dev.nodes", REDIS_URL="", PATH=path)
    try:
        assert service.wait() == 1
        line = service.log().splitlines()[-1]
        assert line.startswith(f"error: {server} has ended; it says: out of order")
    finally:
        end_nodes(service)


def test_the_port_may_be_in_a_file(baked: Baker, tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("0", encoding="utf-8")
    project = baked(find(NODES)).copy(tmp_path / "project")
    with started(project, PORT="", PORT_FILE=str(file)) as service:
        service.stop()


def test_the_last_port_leaves_none_for_the_second_node(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(NODES)).copy(tmp_path / "project")
    service = Service(project, "dev.nodes", REDIS_URL="", PORT="65535")
    try:
        assert service.wait() == 1
        _, line = service.log().splitlines()  # after that of the first `.env`
        assert line.startswith("error: PORT: two nodes need ")
    finally:
        end_nodes(service)


def test_no_link_leads_to_a_page_that_is_off(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(NODES)).copy(tmp_path / "project")
    with started(project, both_run, ENVIRONMENT="production") as service:
        service.stop()
        assert "#node=" not in service.log()
        assert "side by side" not in service.log()


def test_with_a_redis_url_it_is_one_node(baked: Baker, tmp_path: Path) -> None:
    service = Service(
        baked(find(NODES)).copy(tmp_path / "project"),
        "dev.nodes",
        REDIS_URL="unix:///there/is/none.sock",
    )
    try:
        wait_until(lambda: LISTENING.search(service.log()) is not None, told=service.log)
        assert children(service.pid) == []
        assert "two nodes" not in service.log()
        service.stop()
    finally:
        end_nodes(service)
