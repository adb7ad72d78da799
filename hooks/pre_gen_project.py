"""Check the answers before any file is written.

Cookiecutter renders this script and runs it in the project's directory before it writes files. It
runs with Cookiecutter's Python, which may be 3.8 and has only the standard library. The answers
come as JSON, so none is ever run as code.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import keyword
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

SLUG = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")
# YAML 1.1 reads these as booleans or null where they are unquoted, as in deploy/kubernetes.
YAML_WORDS = {"false", "n", "no", "null", "off", "on", "true", "y", "yes"}
NAME_LENGTH = 64
DESCRIPTION_LENGTH = 200

# The name comes first, since the slug is derived from it.
EXAMPLES = {
    "project_name": "Support Chat",
    "project_slug": "support-chat",
    "description": "A chat for our support team.",
    "author_name": "Ada Lovelace",
}
# The answers to each question that has choices, as in cookiecutter.json.
CHOICES: dict[str, tuple[str | bool, ...]] = {
    "auth": ("jwt", "ticket", "session", "api_key", "none"),
    "rooms": (True, False),
    "heartbeat": (True, False),
    "redis": (True, False),
}

# Older versions read `rooms=no` on the command line as text, and any text as yes.
MIN_COOKIECUTTER = (2, 7)

# For hooks/post_gen_project.py: files that existed before, with their modification times.
FILES_BEFORE = ".files-before.json"

# Control characters (newlines too), line and paragraph separators, lone surrogates.
FORBIDDEN_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
# They make text look different from what it is: https://trojansource.codes
BIDI_OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Marks of Jinja, forbidden since cruft renders the recorded answers at each update. They are built
# from parts, since this script is rendered, too.
JINJA_MARKS = ("//#", *("{" + character for character in "%#{"))

SHOWN_LENGTH = 40


def problem_of_slug(slug: str) -> str | None:
    """Return the problem of a directory and package name, if any."""
    strange = next((character for character in slug if not character.isascii()), None)
    rules = {
        "is empty": not slug,
        "is a path, not a name": slug in {".", ".."} or "/" in slug or "\\" in slug,
        f"has {len(slug)} characters, at most {NAME_LENGTH} are allowed": len(slug) > NAME_LENGTH,
        f"has {strange!a}, which is not ASCII": strange is not None,
        "has uppercase letters": slug != slug.lower(),
        "starts with a digit": slug[:1].isdigit(),
        "must be lowercase letters and digits, joined by single hyphens or underscores": (
            SLUG.fullmatch(slug) is None
        ),
        "is a keyword of Python": keyword.iskeyword(slug),
        "is a boolean or null in YAML": slug in YAML_WORDS,
        "is the name of a device on Windows": WINDOWS_DEVICE.fullmatch(slug) is not None,
    }
    return next((problem for problem, applies in rules.items() if applies), None)


def problem_of_text(text: str, length: int) -> str | None:
    """Return the problem of one line of free text, if any."""
    if not text.strip():
        return "is blank"
    for position, character in enumerate(text, start=1):
        if unicodedata.category(character) in FORBIDDEN_CATEGORIES or character in BIDI_OVERRIDES:
            code = f"U+{ord(character):04X}"
            return f"has {code} at position {position}, but must be one line of visible text"
    for mark in JINJA_MARKS:
        if mark in text:
            return f"has {mark}, which a later update would take for a template"
    if text != text.strip():
        return "has a space at its start or end"
    if len(text) > length:
        return f"has {len(text)} characters, at most {length} are allowed"
    return None


def problem_of_answer(name: str, answer: object) -> str | None:
    """Return the problem of an answer to a question without choices, if any."""
    if not isinstance(answer, str):
        return f"is {shown(answer)}, but must be text"
    if name == "project_slug":
        return problem_of_slug(answer)
    return problem_of_text(answer, DESCRIPTION_LENGTH if name == "description" else NAME_LENGTH)


def problem_of_choice(name: str, answer: object) -> str | None:
    """Return the problem of an answer to a question with choices, if any."""
    choices = CHOICES[name]
    # Compare the types, too: 0 equals False, but the template would render it as 0.
    if any(type(answer) is type(choice) and answer == choice for choice in choices):
        return None
    if True in choices:
        return f"is {shown(answer)}, but must be yes or no (true or false in a file)"
    return f"is {shown(answer)}, but must be one of {', '.join(map(str, choices))}"


def shown(answer: object) -> str:
    """Return an answer as JSON, shortened."""
    text = json.dumps(answer)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}..."


def first_problem(answers: dict[str, Any]) -> str | None:
    """Return one line about the first bad answer: the question, the problem, the fix."""
    for name, example in EXAMPLES.items():
        problem = problem_of_answer(name, answers[name]) if name in answers else "is missing"
        if problem is not None:
            return f"{name}: {problem}; for example: {example}"
    for name in CHOICES:
        problem = problem_of_choice(name, answers[name]) if name in answers else "is missing"
        if problem is not None:
            return f"{name}: {problem}{version_hint()}"
    return None


def version_hint() -> str:
    """Return a hint if this Cookiecutter is too old: it misreads such answers."""
    try:
        version = importlib.metadata.version("cookiecutter")
        numbers = tuple(map(int, version.split(".")[:2]))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""
    if numbers >= MIN_COOKIECUTTER:
        return ""
    needed = ".".join(map(str, MIN_COOKIECUTTER))
    return f"; Cookiecutter {version} misreads such answers, use {needed} or newer"


def remove_directories(output: Path, slug: str) -> None:
    """Remove the empty directories that Cookiecutter made for a slug that is a path.

    Cookiecutter itself removes only the last one.
    """
    parts = Path(slug).parts
    paths = [Path(os.path.normpath(output.joinpath(*parts[:end]))) for end in range(1, len(parts))]
    made = [path for path in paths if path != output and path not in output.parents]
    if not made:
        return
    os.chdir(output)  # leave the directory before it is removed
    for directory in (Path(os.path.normpath(output / slug)), *reversed(made)):
        with contextlib.suppress(OSError):
            directory.rmdir()


def note_files(project: Path) -> None:
    """Record the files that exist already, for hooks/post_gen_project.py to keep them."""
    before = {
        path.relative_to(project).as_posix(): path.lstat().st_mtime_ns
        for path in project.rglob("*")
        if not path.is_dir()
    }
    if before:
        (project / FILES_BEFORE).write_text(json.dumps(before), encoding="utf-8")


def main(answers: dict[str, Any]) -> None:
    """Exit with one line on stderr if an answer is invalid."""
    problem = first_problem(answers)
    if problem is not None:
        slug = answers.get("project_slug")
        if isinstance(slug, str) and "_output_dir" in answers:
            remove_directories(Path(answers["_output_dir"]), slug)
        sys.exit(f"error: {problem}")
    note_files(Path())


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
