"""Files of a team: without handlers, and with defaults that pydantic copies."""

from pathlib import Path

from .checks.code import check_lint
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


MODELS = '''\
"""Models with mutable defaults."""

from .realtime import Command, RealtimeSettings


class Settings(RealtimeSettings):
    """The settings."""

    allowed: list[str] = ["a"]


class Draw(Command):
    """Draw points."""

    points: list[int] = []
'''


def test_a_default_may_be_a_list(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("app/models.py", MODELS)
    check_lint(project)
