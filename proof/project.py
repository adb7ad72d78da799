"""A project whose engine is to be proved: the options it has, and its environment."""

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
"""What only the projects with an option have in their engine."""

NOT_COPIED = (".git", ".venv", ".env", ".*_cache", ".hypothesis", "__pycache__", "node_modules")

Answers = dict[str, str | bool]


class Unavailable(Exception):
    """Something that is needed cannot be had; the message says what is missing."""


def answers_of(project: Path) -> Answers:
    """Return the answers that made a project, as its files show.

    Raises:
        Unavailable: it was not made from the template.

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
    """Return the options that were chosen: the kind of authentication, and each yes."""
    return {str(answers["auth"]), *(name for name, answer in answers.items() if answer is True)}


def copy_project(project: Path, to: Path) -> None:
    """Copy a project without its history, its settings and what its tools have made."""
    shutil.copytree(project, to, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))


def bake_default(directory: Path) -> Path:
    """Make a project with the default answers, and return where it is.

    Raises:
        Unavailable: the template cannot be rendered.

    """
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "tmp").mkdir(parents=True)
    output = directory / "output"
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--default-config"]
    # Cookiecutter leaves each rendered hook behind.
    env = environment(TMPDIR=str(directory / "tmp"))
    done = run([*command, "--output-dir", output, TEMPLATE], directory, env=env)
    if done.returncode != 0:
        message = f"the template cannot be rendered:\n{done.stderr}"
        raise Unavailable(message)
    [project] = output.iterdir()
    return project


def python_of(project: Path) -> Path:
    """Return the Python of the environment that the project's Makefile makes of its lock file.

    Raises:
        Unavailable: the project has no such file, or its packages cannot be installed.

    """
    makefile, lock = project / "Makefile", project / LOCK
    for needed in (makefile, lock):
        if not needed.is_file():
            message = f"{project} has no {needed.name}, which makes its environment"
            raise Unavailable(message)
    try:
        return lock_bin(makefile, lock) / "python"
    except AssertionError as failure:
        raise Unavailable(str(failure)) from failure
