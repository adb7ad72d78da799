"""The fixtures of a team's tests fail for exceptions in the team's code, and clean up."""

import re
from pathlib import Path

import pytest

from .combination import DEFAULT
from .conftest import Baker
from .process import run
from .project import Project
from .test_planted import adding, changing
from .venv import venv_bin

FAULTS = {
    "app/handlers.py": '''

class Check(Command):
    """A command whose validator fails."""

    type: Literal["check"]

    @field_validator("type")
    @classmethod
    def _fail(cls, value: str) -> str:
        raise KeyError(value)


@router.command(Check)
async def check(service: Service, connection: Connection, command: Check) -> None:
    """Do nothing."""
''',
    "app/routes.py": '''

@router.get("/fail")
async def fail() -> None:
    """Fail."""
    raise KeyError
''',
    "tests/test_faults.py": '''
"""Each test would pass without the fixture."""

from app.resources import Connection, Service

from .realtime.live import Live


async def fail(*_: object) -> bool:
    raise KeyError


async def test_route(live: Live) -> None:
    assert (await live.get("/fail")).status_code == 500


async def test_validator(live: Live) -> None:
    assert (await (await live.connect()).ask(type="check"))["code"] == "internal"


async def test_authenticator(live: Live, monkeypatch) -> None:
    options = await live.options()
    monkeypatch.setattr(live.service.authenticator, "authenticate", fail)
    client = await live.connect_with(options, welcomed=False)
    assert (await client.closed())[0] == 1011


async def test_readiness(live: Live, monkeypatch) -> None:
    monkeypatch.setattr(live.service, "is_ready", fail)
    assert (await live.get("/readyz")).status_code == 503


async def test_connection(live: Live, service: Service, connection: Connection) -> None:
    await service.manager.add(connection)
    await service.rooms.join(connection, "lobby")


async def test_next(service: Service) -> None:
    assert len(service.manager) == len(service.rooms) == 0
''',
}

JOB = '''

async def fail(service: Service) -> None:
    """Fail when the first client is there."""
    while not len(service.manager):  # in each turn of the loop: the client soon leaves
        await asyncio.sleep(0)
    raise KeyError


jobs = [Job(fail, essential=True)]
'''


@pytest.fixture
def project(baked: Baker, tmp_path: Path) -> Project:
    return baked(DEFAULT).copy(tmp_path / "project")


def outcomes(project: Project, *paths: str) -> tuple[dict[str, str], str]:
    """Run tests of a project; return the outcome of each, the worse one of two, and the output."""
    python = str(venv_bin(project) / "python")
    done = run([python, "-m", "pytest", "-rA", "--numprocesses=0", *paths], project.root)
    found = re.findall(r"(?m)^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout)
    return {name: outcome for outcome, name in found}, done.stdout


def test_an_exception_in_the_teams_code_fails_the_test(project: Project) -> None:
    imports = "from typing import Literal\n\nfrom pydantic import field_validator\n\n"
    changing(
        "app/handlers.py", "^from .realtime import", f"{imports}from .realtime import Command,"
    )(project)
    for path, text in FAULTS.items():
        adding(path, text)(project)
    found, output = outcomes(project, "tests/test_faults.py")
    assert found == {
        "test_route": "ERROR",
        "test_validator": "ERROR",
        "test_authenticator": "ERROR",
        "test_readiness": "ERROR",
        "test_connection": "PASSED",
        "test_next": "PASSED",
    }, output


def test_the_failure_of_an_essential_job_fails_tests_and_is_named(project: Project) -> None:
    changing("app/resources.py", "^from collections", "import asyncio\nfrom collections")(project)
    adding("app/resources.py", JOB)(project)
    found, output = outcomes(project, "tests/test_handlers.py", "tests/test_policy.py")
    assert "ERROR" in found.values(), output
    assert "background job failed" in output
    assert "an essential job has failed" in output
