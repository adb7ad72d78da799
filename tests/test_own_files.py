"""The engine's tests pass whatever a team writes in its own files."""

from pathlib import Path

from .checks.suite import run_tests
from .combination import DEFAULT
from .conftest import Baker

HANDLERS = '''\
"""Without a command, and without a state of connections."""

from .realtime import CommandRouter

router = CommandRouter()
'''

POLICY = '''\
"""Refuses everything."""

from . import realtime
from .resources import Connection, Service


class Policy(realtime.Policy[Service, Connection]):
    """The rules of a service in which nobody may do anything."""

    def can_join(self, service: Service, connection: Connection, room: str) -> bool:
        return False

    def can_send(self, service: Service, connection: Connection, to: str) -> bool:
        return False
'''


def test_the_engines_tests_do_not_need_a_teams_handlers_and_rules(
    baked: Baker, tmp_path: Path
) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("app/handlers.py", HANDLERS)
    project.write("app/policy.py", POLICY)
    run_tests(project, ["tests/realtime/commands", "tests/realtime/endpoint"])
