"""The engine's tests pass without handlers of a team, also without one for new connections."""

from pathlib import Path

from .checks.suite import run_tests
from .combination import DEFAULT
from .conftest import Baker

HANDLERS = '''\
"""Without a command, and without a state of connections."""

from .realtime import CommandRouter

router = CommandRouter()
'''


def test_the_engines_tests_do_not_need_a_teams_handlers(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("app/handlers.py", HANDLERS)
    run_tests(project, ["tests/realtime/commands", "tests/realtime/endpoint"])
