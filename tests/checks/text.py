"""Every file is tidy text without Jinja."""

import re
from pathlib import Path

from tests.project import Project

# `${{ … }}` is GitHub's own.
JINJA = re.compile(r"(?<!\$)\{\{|\{%|\{#|^\s*//#|\bcookiecutter\.")
FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2", re.MULTILINE | re.DOTALL)

# Two blank lines in a row are right here; other tools check them.
SPACIOUS = {".py"}
SPACIOUS_NAMES = {"Dockerfile"}


def check_jinja(project: Project) -> None:
    """Look for the start of a Jinja expression, tag or comment."""
    for path in project.files():
        for number, line in enumerate(project.read(path).splitlines(), start=1):
            assert not JINJA.search(line), f"{path}:{number}: Jinja is left: {line}"


def check_text(project: Project) -> None:
    """Look for trailing blanks, stray blank lines and wrong line ends."""
    for path in project.files():
        problems = text_problems(path, project.read(path))
        assert not problems, f"{path}: {', '.join(problems)}"


def text_problems(path: Path, text: str) -> list[str]:
    """Return the problems of a file's text."""
    rules = {
        "is empty": not text,
        "has a carriage return": "\r" in text,
        "has a byte order mark": text.startswith("\ufeff"),
        "does not end with a newline": not text.endswith("\n"),
        "ends with a blank line": text.endswith("\n\n"),
        "starts with a blank line": text.startswith("\n"),
        "has trailing blanks": re.search(r"[^\S\n]$", text, re.MULTILINE) is not None,
        "has a stray blank line": has_stray_blank_line(path, text),
    }
    return [problem for problem, applies in rules.items() if applies]


def has_stray_blank_line(path: Path, text: str) -> bool:
    """Return whether there are two blank lines in a row where one is enough."""
    if path.suffix in SPACIOUS or path.name in SPACIOUS_NAMES:
        return False
    # A fenced block may show Python.
    prose = FENCED.sub("```", text) if path.suffix == ".md" else text
    return "\n\n\n" in prose
