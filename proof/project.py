"""The project to prove: its options and its environment."""

import shutil
import sys
from pathlib import Path

from tests.combination import QUESTIONS, TEMPLATE
from tests.process import environment, run
from tests.venv import LOCK, lock_bin

ENGINE = Path("app", "realtime")

MODULES: dict[str, str] = {
    "jwt": "auth/jwt.py",
    "ticket": "auth/ticket.py",
    "session": "auth/session.py",
    "api_key": "auth/api_key.py",
    "none": "auth/guest.py",
    "rooms": "rooms",
    "heartbeat": "connections/heartbeat.py",
    "redis": "redis",
}
"""For each option, a file or folder of the engine that only projects with it have."""

NOT_COPIED = (".git", ".venv", ".env", ".*_cache", ".hypothesis", "__pycache__", "node_modules")

Answers = dict[str, str | bool]


class Unavailable(Exception):
    """Something required is missing; the message says what."""


def answers_of(project: Path) -> Answers:
    """Return the answers that a project was made with, read from its files.

    Raises:
        Unavailable: the project was not made from the template.
    """
    engine = project / ENGINE
    if not engine.is_dir():
        message = f"{project} has no {ENGINE}, so it was not made from this template"
        raise Unavailable(message)
    present = {option for option, module in MODULES.items() if (engine / module).exists()}
    kinds = [kind for kind in QUESTIONS["auth"] if kind in present]
    if len(kinds) != 1:
        message = f"{project}: {ENGINE}/auth has no single kind of authentication: {kinds}"
        raise Unavailable(message)
    extras = (name for name, question in QUESTIONS.items() if isinstance(question, bool))
    return {"auth": kinds[0], **{name: name in present for name in extras}}


def options_of(answers: Answers) -> set[str]:
    """Return the chosen options: the kind of authentication, and the name of each yes."""
    return {str(answers["auth"]), *(name for name, answer in answers.items() if answer is True)}


def copy_project(project: Path, to: Path) -> None:
    """Copy a project without its git history, settings, environment and caches."""
    shutil.copytree(project, to, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))


def bake_default(directory: Path) -> Path:
    """Make a project with the default answers; return its directory.

    Raises:
        Unavailable: the template cannot be rendered.
    """
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "tmp").mkdir(parents=True)
    output = directory / "output"
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--default-config"]
    # Cookiecutter does not delete its rendered hooks.
    env = environment(TMPDIR=str(directory / "tmp"))
    done = run([*command, "--output-dir", output, TEMPLATE], directory, env=env)
    if done.returncode != 0:
        message = f"the template cannot be rendered:\n{done.stderr}"
        raise Unavailable(message)
    [project] = output.iterdir()
    return project


def python_of(project: Path) -> Path:
    """Return the Python of the environment that the project's Makefile makes from its lock file.

    Raises:
        Unavailable: one of these files is missing, or a package cannot be installed.
    """
    makefile, lock = project / "Makefile", project / LOCK
    for needed in (makefile, lock):
        if not needed.is_file():
            message = f"{project} has no {needed.name}, so its environment cannot be made"
            raise Unavailable(message)
    try:
        return lock_bin(makefile, lock) / "python"
    except AssertionError as failure:
        raise Unavailable(str(failure)) from failure
