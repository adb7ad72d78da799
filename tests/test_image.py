"""The image: its health check finds the service, and a signal ends its first process."""

import json
import os
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest

from .checks.service import LISTENING, Service, is_ok, running
from .combination import DEFAULT
from .conftest import Baker
from .process import environment, run
from .project import Project
from .venv import venv_bin
from .waiting import DEADLINE_S, wait_until

LOOPBACKS = {"127.0.0.1", "::1"}


def health_check(project: Project) -> list[str]:
    """Return the command, without the line breaks of the Dockerfile."""
    text = project.read("Dockerfile").replace("\\\n", "")
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (.*)", text, re.MULTILINE)
    parsed: list[str] = json.loads(command)
    return parsed


def ports(service: Service) -> list[int]:
    """Return the ports on which the service has said that it listens."""
    return list(map(int, LISTENING.findall(service.log())))


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104 - as in the image
def test_the_health_check_follows_the_settings(baked: Baker, host: str) -> None:
    project = baked(DEFAULT)
    program, *arguments = health_check(project)
    with running(project, HOST=host) as service:
        for port, status in ((service.port, 0), ("1", 1)):
            env = environment(HOST=host, PORT=port, HTTP_PROXY="http://127.0.0.1:9")
            done = run([venv_bin(project) / program, *arguments], project.root, env=env)
            assert done.returncode == status, done.stderr


def test_the_host_of_two_colons_is_all_of_ipv4_and_ipv6(baked: Baker, tmp_path: Path) -> None:
    service = Service(baked(DEFAULT).copy(tmp_path / "project"), HOST="::")
    try:
        # With port 0, the system picks a port for IPv4 and another one for IPv6.
        wait_until(lambda: len(ports(service)) == len(LOOPBACKS), told=service.log)
        assert {
            host for port in ports(service) for host in LOOPBACKS if is_ok(host, port, "/livez")
        } == LOOPBACKS
        service.stop()
    finally:
        service.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_has_a_handler(
    baked: Baker, tmp_path: Path, number: signal.Signals
) -> None:
    """Without one, process 1 of a container does not get the signal."""
    project, secret = baked(DEFAULT), tmp_path / "secret"
    os.mkfifo(secret)
    pipe = os.open(secret, os.O_RDWR)
    os.write(pipe, b"the first part")
    with subprocess.Popen(
        [str(venv_bin(project) / "python"), "-B", "-m", "app"],
        cwd=project.root,
        env=environment(METRICS_KEY_FILE=str(secret)),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:  # it reads the first part, and waits for more
            wait_until(lambda: not select.select([pipe], [], [], 0)[0] or process.poll())
            process.send_signal(number)
            _, errors = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            os.close(pipe)
    assert (process.returncode, errors) == (0, "")
