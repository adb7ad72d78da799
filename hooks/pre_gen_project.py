"""Refuse answers that would make a broken project, before any file is written.

Cookiecutter renders this script and runs it in the new, still empty directory, with a Python of
its own: only the standard library is there. The answers come as JSON, so none is ever run as code.
"""

import contextlib
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
NAME_LENGTH = 64
DESCRIPTION_LENGTH = 200

TEXTS = {
    "project_name": (NAME_LENGTH, "Support Chat"),
    "description": (DESCRIPTION_LENGTH, "A chat for our support team."),
    "author_name": (NAME_LENGTH, "Ada Lovelace"),
}
SLUG_EXAMPLE = "support-chat"

# Controls (newlines among them), line and paragraph separators, halves of surrogate pairs.
FORBIDDEN_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
# They make text look like another text: https://trojansource.codes
BIDI_OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def problem_of_slug(slug: str) -> str | None:
    """Return what is wrong with a directory and package name."""
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
        "is the name of a device on Windows": WINDOWS_DEVICE.fullmatch(slug) is not None,
    }
    return next((problem for problem, applies in rules.items() if applies), None)


def problem_of_text(text: str, length: int) -> str | None:
    """Return what is wrong with one line of free text."""
    if not text.strip():
        return "is blank"
    for position, character in enumerate(text, start=1):
        if unicodedata.category(character) in FORBIDDEN_CATEGORIES or character in BIDI_OVERRIDES:
            code = f"U+{ord(character):04X}"
            return f"has {code} at position {position}, but must be one line of visible text"
    if text != text.strip():
        return "has a space at its start or end"
    if len(text) > length:
        return f"has {len(text)} characters, at most {length} are allowed"
    return None


def first_problem(answers: dict[str, Any]) -> str | None:
    """Return one line on the first bad answer: the field, what is wrong, what would be right."""
    found = [
        (name, problem_of_text(answers[name], length), example)
        for name, (length, example) in TEXTS.items()
    ]
    # The name comes first, since the slug is derived from it.
    found.insert(1, ("project_slug", problem_of_slug(answers["project_slug"]), SLUG_EXAMPLE))
    for name, problem, example in found:
        if problem is not None:
            return f"{name}: {problem}; right is, for example: {example}"
    return None


def remove_directories(output: Path, slug: str) -> None:
    """Remove the directories that Cookiecutter made for a slug that is a path.

    Cookiecutter removes the last one only. Those that hold anything were there before.
    """
    parts = Path(slug).parts
    paths = [Path(os.path.normpath(output.joinpath(*parts[:end]))) for end in range(1, len(parts))]
    made = [path for path in paths if not output.is_relative_to(path)]
    if not made:
        return
    os.chdir(output)  # out of what is removed next
    for directory in (Path(os.path.normpath(output / slug)), *reversed(made)):
        with contextlib.suppress(OSError):
            directory.rmdir()


def main(answers: dict[str, Any]) -> None:
    """Exit with one line on stderr if an answer is bad."""
    problem = first_problem(answers)
    if problem is not None:
        remove_directories(Path(answers["_output_dir"]), answers["project_slug"])
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
