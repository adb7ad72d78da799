"""Any free text gives a valid project that shows exactly this text."""

import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from pytest_cookies.plugin import Cookies

from .checks import CHECKS
from .combination import DEFAULT, QUESTIONS
from .conftest import Baker
from .process import environment, run
from .project import Project, bake

# Only these contain free text.
TEXT_FILES = {"README.md", "pyproject.toml"}

TEXTS = {
    "quotes": "\"Bob's\" 'chat'",
    "triple quotes": '"""a\'\'\' b"""',
    "backslashes": "C:\\new\\u0041\\chat\\",
    "emoji": "Chat 👩‍👩‍👧 🐍",
    "other letters": "Чат 聊天室 دردشة Größe",
    "hash": "# no comment #",
    "percent": "100% %s %(name)s",
    "html": "<!-- <script>alert('x')</script>",
    "list": "- a",
    "numbered list": "1. a",
    "emphasis": "*a* __b__ ~~c~~",
    "link": "[a](b) ![c](d)",
    "entity": "R&amp;D &lt;b&gt;",
    "fence": "```",
    "quote": "> a",
    "yaml": "key: [value, *b, &c] | !d - e",
    "toml": '"]] # [x]\\',
    "shell": "$(touch x) `id` ${HOME} ;",
    "braces": "{a} }} %}",
}
TYPED_TEXTS = {name: TEXTS[name] for name in ("quotes", "backslashes", "emoji", "braces")}


def check_texts(project: Project, plain: Project, text: str) -> None:
    """Compare a project with one that has plain texts."""
    for check in ("files", "data", "text"):
        CHECKS[check](project)
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]
    readme = project.read("README.md")
    assert outline(readme) == outline(plain.read("README.md"))
    assert words(readme)[:2] == [text, text]
    for path in project.files():
        if path.as_posix() not in TEXT_FILES:
            assert project.read(path) == plain.read(path)


MARKDOWN = MarkdownIt().enable(["strikethrough", "table"])


def outline(markdown: str) -> list[str]:
    """Return the types of the blocks of a Markdown text."""
    return [token.type for token in MARKDOWN.parse(markdown)]


def words(markdown: str) -> list[str]:
    """Return the visible text of headings and paragraphs."""
    lines = [token.children or [] for token in MARKDOWN.parse(markdown) if token.type == "inline"]
    return ["".join(part.content for part in line) for line in lines]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_given_text(cookies: Cookies, template: Path, baked: Baker, text: str) -> None:
    answers = dict.fromkeys(("project_name", "description", "author_name"), text)
    plain = baked(DEFAULT)
    answers["project_slug"] = plain.context["project_slug"]
    project = bake(cookies, template, DEFAULT, answers)
    assert project.context["project_name"] == text
    check_texts(project, plain, text)


def typed(name: str, text: str, slug: str) -> str:
    """Return the line that answers a question."""
    if name == "project_slug":
        return slug
    if isinstance(QUESTIONS[name], list):
        return "1"
    if isinstance(QUESTIONS[name], bool):
        return "y" if QUESTIONS[name] else "n"
    return text


@pytest.mark.parametrize("text", TYPED_TEXTS.values(), ids=TYPED_TEXTS)
def test_typed_text(template: Path, tmp_path: Path, baked: Baker, text: str) -> None:
    home, output = tmp_path / "home", tmp_path / "output"
    home.mkdir()
    plain = baked(DEFAULT)
    slug = plain.context["project_slug"]
    lines = [typed(name, text, slug) for name in QUESTIONS if not name.startswith("_")]
    done = run(
        [sys.executable, "-X", "utf8", "-m", "cookiecutter", template, "--output-dir", output],
        tmp_path,
        env=environment(HOME=str(home), TMPDIR=str(home)),
        stdin="\n".join([*lines, ""]),
    )
    assert done.returncode == 0, done.stderr
    check_texts(replace(plain, root=output / slug), plain, text)
