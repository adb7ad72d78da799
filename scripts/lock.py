"""Write the template's lock files: ``make lock``, with ``ARGS=--upgrade`` for newer versions.

First the dependencies of all options are resolved together, so that all projects have the same
versions. Then ``make lock`` runs in each distinct project, and packages that only some projects
need go into Jinja blocks. Finally each project's rendering must equal the lock file that its own
``make lock`` has made, so that ``make lock`` changes nothing in a new project.

Needs make and uv on PATH.
"""

import itertools
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from proof.overlay import JINJA
from proof.project import Answers
from tests.combination import COMBINATIONS, QUESTIONS, TEMPLATE
from tests.project import PROJECT_DIRECTORY

PROJECT = TEMPLATE / PROJECT_DIRECTORY
BLOCK_TAG = re.compile(r"^ *# \{%.*\n", re.MULTILINE)
PACKAGE = re.compile(r"^[a-z0-9].*\n(?: .*\n)*", re.MULTILINE)

Locks = dict[str, str]

FILLER: Answers = {name: "x" for name, question in QUESTIONS.items() if isinstance(question, str)}
"""Answers to the questions for free text."""

ALL_ANSWERS = [FILLER | dict(combination.answers) for combination in COMBINATIONS]
"""Every combination of answers."""


def read(name: str) -> str:
    """Return one of the template's files."""
    return (PROJECT / name).read_text(encoding="utf-8")


def render(text: str, answers: Answers) -> str:
    """Render a file's text with these answers."""
    return JINJA.from_string(text).render(cookiecutter=answers)


def make_lock(pyproject: str, locks: Locks, *options: str) -> Locks:
    """Run ``make lock`` in a project with these lock files, and return the new ones."""
    files = {"Makefile": read("Makefile"), "pyproject.toml": pyproject} | locks
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            Path(directory, name).write_text(text, encoding="utf-8")
        command = ["make", "--silent", "lock", *options]
        subprocess.run(command, cwd=directory, check=True)
        return {name: Path(directory, name).read_text(encoding="utf-8") for name in locks}


def condition(needed: list[Answers]) -> str:
    """Return a Jinja expression that is true for exactly these answers; empty if for all.

    Raises:
        ValueError: no union of single answers describes them.
    """
    if needed == ALL_ANSWERS:
        return ""
    reasons: dict[str, list[Answers]] = {}
    for name, answer in itertools.chain(*(answers.items() for answers in needed)):
        having = [answers for answers in ALL_ANSWERS if answers[name] == answer]
        if answer is not False and all(answers in needed for answers in having):
            test = "" if answer is True else f' == "{answer}"'
            reasons[f"cookiecutter.{name}{test}"] = having
    if any(answers not in itertools.chain(*reasons.values()) for answers in needed):
        msg = f"no simple condition holds for just these answers: {needed}"
        raise ValueError(msg)
    return " or ".join(reasons)


def merge(everything: str, projects: list[tuple[Answers, str]]) -> str:
    """Return the lock file of all options, with blocks around packages that only some need.

    Raises:
        ValueError: a project's lock file has a package that the lock file of all options lacks.
    """
    packages = PACKAGE.findall(everything)
    for answers, lock in projects:
        if strange := set(PACKAGE.findall(lock)) - set(packages):
            msg = f"only {answers} has {sorted(strange)}"
            raise ValueError(msg)
    merged = everything[: everything.index(packages[0])]
    conditions = (
        condition([answers for answers, lock in projects if package in PACKAGE.findall(lock)])
        for package in packages
    )
    for test, group in itertools.groupby(
        zip(conditions, packages, strict=True), key=lambda pair: pair[0]
    ):
        block = "".join(package for _, package in group)
        merged += f"# {{% if {test} %}}\n{block}# {{% endif %}}\n" if test else block
    return merged


def main() -> None:
    """Write the lock files."""
    names = ("requirements.lock", "requirements-dev.lock")
    present = {name: read(name) if (PROJECT / name).exists() else "" for name in names}
    options = [f"ARGS={shlex.join(sys.argv[1:])}"]
    everything = make_lock(
        render(BLOCK_TAG.sub("", read("pyproject.toml")), ALL_ANSWERS[0]),
        {name: BLOCK_TAG.sub("", lock) for name, lock in present.items()},
        *options,
    )

    distinct: dict[str, Locks] = {}
    projects: list[tuple[Answers, Locks]] = []
    for answers in ALL_ANSWERS:
        pyproject = render(read("pyproject.toml"), answers)
        metadata = str(tomllib.loads(pyproject)["project"])
        if metadata not in distinct:
            distinct[metadata] = make_lock(pyproject, everything)
        projects.append((answers, distinct[metadata]))

    for name in names:
        merged = merge(everything[name], [(answers, locks[name]) for answers, locks in projects])
        for answers, locks in projects:
            if render(merged, answers) != locks[name]:
                sys.exit(f"error: {name} would not render to the lock file of {answers}")
        (PROJECT / name).write_text(merged, encoding="utf-8")
        print(f"{name}: {len(PACKAGE.findall(merged))} packages, {len(distinct)} distinct projects")


if __name__ == "__main__":
    main()
