"""The project's documents are complete, and their examples work."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from proof.overlay import JINJA
from tests.combination import COMBINATIONS, TEMPLATE, Combination
from tests.documents import (
    MARKDOWN,
    Block,
    anchors,
    blocks,
    blocks_of,
    documents,
    paste,
    tables,
)
from tests.process import check_output
from tests.project import PROJECT_DIRECTORY, Project
from tests.venv import venv_bin

from .code import check_imports, check_types

EXTENDING = "docs/extending.md"
OPERATING = "docs/operating.md"
SETTINGS_FILE = ".env.example"

MAX_COLUMNS = 120

EXAMPLES = TEMPLATE / "tests" / "examples" / "extending.py"
TESTS_OF_EXAMPLES = "tests/test_extending.py"
"""Where the tests of the examples are: in the template, and in a project."""

EVENT = "[a-z]+(,? [a-z]+)*"
"""The form of the event of a log line."""

WARNINGS = {"warning", "error", "critical", "exception"}

EXAMPLE_LANGUAGES = ("python", "sh")

NEEDED = {
    "the command": "A command",
    "the database": "Resources: a database",
    "the connection state": "Connection state",
    "the policy": "Policies",
    "the background job": "Background jobs",
    "the metric": "Metrics",
    "the route": "HTTP routes",
}
"""What an example says that it needs, and the section that has it."""


def check_docs(project: Project) -> None:
    """Compare the documents with the code, and run their examples."""
    check_settings(project)
    check_links(project)
    check_lengths(project)
    check_widths(project)
    check_log(project)
    check_selections(project)
    if project.combination == representative(project.combination):
        check_examples(project)


def check_settings(project: Project) -> None:
    """Compare the settings with the example."""
    listed = set(re.findall(r"(?m)^#?([A-Z0-9_]+)=", project.read(SETTINGS_FILE)))
    settings = set(settings_of(project))
    missing, unknown = sorted(settings - listed), sorted(listed - settings)
    assert not missing, f"{SETTINGS_FILE}: the settings {missing} are missing"
    assert not unknown, f"{SETTINGS_FILE}: {unknown} are no settings"


def settings_of(project: Project) -> Iterator[str]:
    """Yield the name of each setting, as in the environment."""
    for field in _fields(
        project, "SettingsPart", "JwksSettings", "BaseSettings", "RealtimeSettings"
    ):
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            yield ast.unparse(field.target).upper()


def _fields(project: Project, *bases: str) -> Iterator[ast.stmt]:
    """Yield the statements in base classes and their subclasses."""
    for path in project.files():
        if path.parts[0] == "app" and path.suffix == ".py":
            for node in ast.walk(ast.parse(project.read(path))):
                if isinstance(node, ast.ClassDef) and not set(bases).isdisjoint(
                    [node.name, *map(ast.unparse, node.bases)]
                ):
                    yield from node.body


def check_links(project: Project) -> None:
    """Look up the target of each relative link and each path of the project."""
    pasted = {block.target for block in blocks(project, "python")}
    for document in documents(project):
        text = project.read(document)
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            target = (project.root / document).parent / link if link else project.root / document
            assert target.exists(), f"{document}: there is no {link}"
            if anchor:
                found = anchors(target.read_text(encoding="utf-8"))
                assert anchor in found, f"{document}: {target.name} has no heading for #{anchor}"
        for name in re.findall(r"`((?:app|deploy|dev|docs|tests)/[\w./-]*)`", text):
            assert name in pasted or (project.root / name).exists(), f"{document}: no {name}"


def check_lengths(project: Project) -> None:
    """Limit the length of the pages that a newcomer reads first."""
    for document, longest in {"README.md": 150, "AGENTS.md": 100}.items():
        lines = len(project.read(document).splitlines())
        assert lines <= longest, f"{document} has {lines} lines, at most {longest} are allowed"


def check_widths(project: Project) -> None:
    """Limit the columns of prose; tables and blocks of code may be wider."""
    for document in documents(project):
        text = project.read(document)
        lines = text.splitlines()
        prose = (each.map for each in MARKDOWN.parse(text) if each.type == "paragraph_open")
        numbers = (n for begin, end in filter(None, prose) for n in range(begin, end))
        wide = [n + 1 for n in numbers if len(lines[n]) > MAX_COLUMNS]
        assert not wide, f"{document}: lines {wide} have more than {MAX_COLUMNS} columns"


def check_log(project: Project) -> None:
    """Compare the table of log lines with the code: each row, and each warning of the engine."""
    code = "".join(project.read(path) for path in project.files() if path.match("*.py"))
    cells = [row[0] for row in tables(project, OPERATING)]
    listed = {event for cell in cells for event in re.findall(r"`(\w+(?:,? [a-z]+)+)`", cell)}
    unknown = sorted(event for event in listed if f'"{event}"' not in code)
    assert not unknown, f"{OPERATING}: nothing logs the events {unknown}"
    missing = sorted(event for event in warnings(project) if f"`{event}`" not in "".join(cells))
    assert not missing, f"{OPERATING}: no table has the events {missing}"


def warnings(project: Project) -> Iterator[str]:
    """Yield each event that the engine logs as a warning or worse."""
    for level, event in logged(project):
        if level in WARNINGS:
            yield event


def logged(project: Project) -> Iterator[tuple[str, str]]:
    """Yield the level and the event of each line that the engine logs.

    An event is a constant text, by which lines can be found; what varies is in fields.
    """
    for path in project.files():
        if path.is_relative_to("app/realtime") and path.suffix == ".py":
            for node in ast.walk(ast.parse(project.read(path))):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name("log"), attr=level), args=[first, *more]
                    ) if level in {"debug", "info", *WARNINGS}:
                        event = ast.literal_eval(first) if isinstance(first, ast.Constant) else ""
                        is_constant = re.fullmatch(EVENT, event) and not more
                        assert is_constant, f"{path}:{node.lineno}: {ast.unparse(node)}"
                        yield level, event


def check_selections(project: Project) -> None:
    """Look up a test for each word by which a document selects tests."""
    paths = [path for path in project.files() if path.match("test_*.py")]
    tests = " ".join(re.findall(r"def (test_\w+)", "".join(map(project.read, paths))))
    for document in documents(project):
        for word in re.findall(r'ARGS="-k (\w+)"', project.read(document)):
            assert word in tests, f"{document}: no test is selected by -k {word}"


def check_examples(project: Project) -> None:
    """Paste the examples into a copy; it must pass its tools, its tests and theirs."""
    ruff = venv_bin(project) / "ruff"
    examples = list(blocks_of(EXTENDING, project.read(EXTENDING), *EXAMPLE_LANGUAGES))
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        pasted = {TESTS_OF_EXAMPLES}
        copy.write(TESTS_OF_EXAMPLES, EXAMPLES.read_text(encoding="utf-8"))
        for block in examples:
            _paste(copy, block)
            if block.language == "python":
                pasted.add(block.target)
                copy.write("example.py", block.body)
                check_output([ruff, "format", "--check", "--diff", "example.py"], copy.root)
        (copy.root / "example.py").unlink()
        # As an editor would, sort the imports and format the file.
        check_output([ruff, "check", "--fix", "--select", "I", *pasted], copy.root)
        check_output([ruff, "format", *pasted], copy.root)
        check_output([ruff, "check", *pasted], copy.root)
        check_types(copy)
        check_imports(copy)
        check_sections(project, copy)
        tests = sorted(path.relative_to(copy.root) for path in copy.root.glob("tests/test_*.py"))
        tests.append(Path("tests", "dev"))  # which the team does not edit
        python = venv_bin(project) / "python"
        check_output([python, "-m", "pytest", "--quiet", *tests], copy.root)


def check_sections(project: Project, copy: Project) -> None:
    """Check the types of each section's examples, pasted with only those that they need."""
    team = {path.name: project.read(path) for path in project.files() if path.match("app/*.py")}
    sections = dict(
        section.split("\n", 1) for section in project.read(EXTENDING).split("\n## ")[1:]
    )
    (copy.root / "sections").mkdir()
    for heading in sections:
        files = dict(team)
        for name in _with_needed(heading, sections):
            for block in blocks_of(EXTENDING, sections[name], "python"):
                file = Path(block.target).name
                files[file] = paste(files.get(file, ""), block.body)
        package = Path("sections", re.sub(r"\W", "_", heading).lower())
        (copy.root / package).mkdir()
        for file, text in files.items():
            copy.write(package / file, _moved(text))
    check_types(copy, "sections")


def _with_needed(heading: str, sections: dict[str, str]) -> list[str]:
    """Return the headings of the examples that a section needs, the section's own last."""
    needs = re.findall(r"example\s+needs\s+([^.]*)\.", sections[heading])
    named = [
        NEEDED[each] for text in needs for each in re.split(", | and ", " ".join(text.split()))
    ]
    needed = [each for name in named for each in _with_needed(name, sections)]
    return list(dict.fromkeys([*needed, heading]))


def _moved(text: str) -> str:
    """Return a module of the team with the imports that it needs in another folder."""
    for old, new in {
        r"from \.realtime\.live ": "from tests.realtime.live ",
        r"from \.realtime ": "from app.realtime ",
        r"from \. import realtime": "from app import realtime",
        r"from app\.(?!realtime)": "from .",
    }.items():
        text = re.sub(f"(?m)^( *){old}", rf"\1{new}", text)
    return text


def _paste(project: Project, block: Block) -> None:
    before = project.read(block.target) if (project.root / block.target).exists() else ""
    if block.language == "sh":
        project.write(block.target, f"{before}\n{block.body}")
    else:
        project.write(block.target, paste(before, block.body))


@cache
def representative(combination: Combination) -> Combination:
    """Return the first combination with the same examples, which is tested for the others."""
    return next(each for each in COMBINATIONS if _examples(each) == _examples(combination))


@cache
def _examples(combination: Combination) -> list[str]:
    page = (TEMPLATE / PROJECT_DIRECTORY / EXTENDING).read_text(encoding="utf-8")
    text = JINJA.from_string(page).render(cookiecutter=dict(combination.answers))
    return [block.text for block in blocks_of(EXTENDING, text, *EXAMPLE_LANGUAGES)]
