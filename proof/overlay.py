"""Lays the proof over a copy of a project: the files for its options, rendered for its answers."""

import shutil
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tests.combination import QUESTIONS

from .project import Answers, answers_of, options_of

OVERLAY = Path(__file__).parent / "realtime"
TARGET = Path("tests", "realtime")

PLUGIN = "tests.realtime.hostile"
"""The pytest plugin that reports the result of each hostile case."""

JINJA = Environment(
    **QUESTIONS["_jinja2_env_vars"],
    keep_trailing_newline=True,
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - no HTML here
)

# Options, and the files and directories that need all of them.
NEEDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rooms",): ("rooms",),
    ("heartbeat",): ("connections/test_pings.py",),
    ("redis",): ("redis",),
    ("rooms", "redis"): (
        "chaos",
        "redis/test_cluster_rooms.py",
        "redis/test_faults_rooms.py",
        "redis/test_feed.py",
        "redis/test_forged.py",
        "redis/test_history.py",
        "redis/test_memory.py",
        "redis/test_presence.py",
        "redis/test_presence_model.py",
        "redis/test_ready_rooms.py",
        "redis/test_room_contracts.py",
        "scale",
        "test_chaos.py",
    ),
    ("jwt",): ("auth",),
}


def files(options: set[str]) -> list[Path]:
    """Return the files for these options, relative to the overlay."""
    paths = (path for path in OVERLAY.rglob("*.*") if path.suffix in {".md", ".py"})
    relative = sorted(path.relative_to(OVERLAY) for path in paths)
    return [path for path in relative if needed(path) <= options]


def needed(path: Path) -> set[str]:
    """Return the options that a file of the overlay needs."""
    names = {path.as_posix(), *(parent.as_posix() for parent in path.parents)}
    return {option for options, paths in NEEDS.items() if names & set(paths) for option in options}


def render(path: Path, answers: Answers) -> str:
    """Render a file for these answers, as Cookiecutter would."""
    text = (OVERLAY / path).read_text(encoding="utf-8")
    return JINJA.from_string(text).render(cookiecutter=answers)


def lay_over(project: Path) -> list[Path]:
    """Copy the proof into a project and replace the team's fixtures; return the new files.

    Raises:
        Unavailable: the project was not made from the template.
    """
    answers = answers_of(project)
    shutil.copy(Path(__file__).with_name("conftest.py"), project / TARGET.parent)
    laid = []
    for relative in files(options_of(answers)):
        target = TARGET / relative
        (project / target).parent.mkdir(parents=True, exist_ok=True)
        text = render(relative, answers)
        (project / target).write_text(text, encoding="utf-8", newline="\n")
        laid.append(target)
    return laid
