"""The commands and links of the template's own pages work."""

import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from .combination import TEMPLATE
from .documents import blocks_of
from .process import check_output, environment
from .project import PROJECT_DIRECTORY

PAGES = {
    path.relative_to(TEMPLATE).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md")
    for path in sorted(TEMPLATE.glob(pattern))
}
LINES = [
    line.partition(" #")[0].strip()
    for name, text in PAGES.items()
    for block in blocks_of(name, text, "sh")
    for line in block.text.splitlines()
]
TARGETS = [
    *(line for line in LINES if line.startswith("make ")),
    *(line for text in PAGES.values() for line in re.findall(r"`(make [a-z][^`]*)`", text)),
]
LINKS = [
    (name, "".join(link))
    for name, text in PAGES.items()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)|src(?:set)?=\"([^\"]+)", text)
]


@pytest.mark.parametrize("peer", ["FastAPI manager", "Node ws", "C loop"])
def test_the_figures_are_those_of_the_benchmark(peer: str) -> None:
    page = (TEMPLATE / "docs/benchmarks.md").read_text(encoding="utf-8")
    fanout = page.partition("## Fan-out to 100\n")[2].partition("\n## ")[0]
    (factor,) = re.findall(rf"^\| {peer} \| .* \| ([0-9.]+)×", fanout, re.MULTILINE)
    assert f"- {factor} times as much as " in PAGES["README.md"]


def test_the_promised_helpers_for_tests_exist() -> None:
    (row,) = re.findall(r"^\| helpers for your tests \|.*", PAGES["README.md"], re.MULTILINE)
    files = [
        path
        for folder in ("dev", "tests/realtime")
        for path in (TEMPLATE / PROJECT_DIRECTORY / folder).rglob("*.py")
    ]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    names = re.findall(r"`(\w+)`", row)
    assert names
    for name in names:
        assert re.search(rf"^(async )?(def|class) {name}\b", code, re.MULTILINE), name


@pytest.mark.parametrize("line", sorted(set(TARGETS)))
def test_the_targets_of_make_exist(line: str) -> None:
    (target,) = (word for word in shlex.split(line)[1:] if "=" not in word)
    makefiles = [TEMPLATE / "Makefile", TEMPLATE / PROJECT_DIRECTORY / "Makefile"]
    assert any(f"\n{target}:" in path.read_text(encoding="utf-8") for path in makefiles)


@pytest.mark.parametrize("line", [line for line in LINES if "cookiecutter " in line])
def test_cookiecutter_accepts_the_command(template: Path, tmp_path: Path, line: str) -> None:
    words = shlex.split(line.removeprefix("pipx run "))[1:]
    words[0] = str(template)
    words += ["--output-dir", str(tmp_path)] + ["--no-input"] * ("--no-input" not in words)
    check_output(
        [sys.executable, "-m", "cookiecutter", *words],
        tmp_path,
        env=environment(HOME=str(tmp_path)),
    )
    assert (tmp_path / "realtime-service" / "Makefile").is_file()


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_have_a_target(page: str, link: str) -> None:
    assert ((TEMPLATE / page).parent / unquote(link)).exists()


def test_every_shell_line_is_tested() -> None:
    programs = {line.split()[0] for line in LINES}
    assert programs == {"cd", "cookiecutter", "make", "pipx"}
