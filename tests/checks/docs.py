"""The project's documents are complete, and their commands and examples work."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, StrictUndefined

from tests.combination import COMBINATIONS, QUESTIONS, TEMPLATE, Combination
from tests.documents import Block, anchors, blocks, documents, paste, tables
from tests.process import check_output
from tests.project import PROJECT_DIRECTORY, Project
from tests.venv import venv_bin

from .code import check_imports, check_types
from .exchanges import Exchange, is_exchange
from .protocol import AsyncApi, check_protocol
from .service import Service, running

EXTENDING = "docs/extending.md"
OPERATING = "docs/operating.md"
SETTINGS_FILE = ".env.example"

EXAMPLES = TEMPLATE / "tests" / "examples" / "extending.py"
TESTS_OF_EXAMPLES = "tests/test_extending.py"
"""Where the tests of the examples are: in the template, and in a project."""

JINJA = Environment(
    **QUESTIONS["_jinja2_env_vars"],
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - no HTML here
)


def check_docs(project: Project) -> None:
    """Compare the documents with the code; run their commands, exchanges and examples."""
    asyncapi = AsyncApi(project)
    check_protocol(project, asyncapi)
    check_settings(project)
    check_links(project)
    check_lengths(project)
    check_log(project)
    check_exchanges(project, asyncapi)
    if project.combination == representative(project.combination):
        check_examples(project)


def check_settings(project: Project) -> None:
    """Look up each setting in the example."""
    listed = {
        line.lstrip("#").partition("=")[0] for line in project.read(SETTINGS_FILE).splitlines()
    }
    missing = sorted(set(settings_of(project)) - listed)
    assert not missing, f"{SETTINGS_FILE}: the settings {missing} are missing"


def settings_of(project: Project) -> Iterator[str]:
    """Yield the name of each setting, as in the environment."""
    for field in _fields(project, "SettingsPart", "BaseSettings", "RealtimeSettings"):
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
    """Limit the length of the pages for the first hour."""
    for document, longest in {"README.md": 150, "AGENTS.md": 100}.items():
        lines = len(project.read(document).splitlines())
        assert lines <= longest, f"{document} has {lines} lines, at most {longest} are allowed"


def check_shell(project: Project, service: Service) -> None:
    """Run each line for a shell; `make` as a dry run, Docker not at all."""
    for block in blocks(project, "sh"):
        if block.text.startswith("# .env.example"):
            continue
        script = block.text.replace("\\\n", " ")
        for line in filter(None, script.splitlines()):
            service.shell(_harmless(line.partition(" #")[0], service.port))
    for document in documents(project):
        for command in re.findall(r"`(make [a-z][^`]*)`", project.read(document)):
            service.shell(_harmless(command, service.port))


def _harmless(line: str, port: str) -> str:
    """Return a line that tests a command without its effects."""
    program = line.split()[0]
    if program == "make":
        return line.replace("make", "make --dry-run", 1)
    if program == "docker":
        return "test -f compose.yaml"
    if program == "kubectl":
        return "test -d deploy/kubernetes"  # tests/test_kubernetes.py reads the manifests
    if program == "curl":
        url = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        return ". ./.env; " + url.replace("curl", "curl --silent --show-error --fail-with-body", 1)
    if program in {"pipx", "uv"}:
        return "true"  # tests/test_updates.py and tests/test_packaging.py run it
    assert program in {".", "python3"}, (
        f"_harmless in tests/checks/docs.py has no test for this program: {line}"
    )
    return line


def check_exchanges(project: Project, asyncapi: AsyncApi) -> None:
    """Start the service; play the exchanges, then run the lines for a shell."""
    with running(project) as service:
        for block in blocks(project, "text"):
            if is_exchange(block):
                Exchange(service, block, asyncapi).play()
        check_shell(project, service)
        check_metrics(project, service)


def check_log(project: Project) -> None:
    """Look up each event of the table of log lines in the code."""
    code = "".join(project.read(path) for path in project.files() if path.match("*.py"))
    for cells in tables(project, OPERATING):
        for event in re.findall(r"`([a-z]+(?: [a-z]+)+)`", cells[0]):
            assert f'"{event}"' in code, f"{OPERATING}: nothing logs the event {event}"


def check_metrics(project: Project, service: Service) -> None:
    """Look up each metric of the engine in a table."""
    url = f"http://127.0.0.1:{service.port}/metrics"
    text = service.shell(f'curl --silent --fail -H "Authorization: Bearer $METRICS_KEY" {url}')
    documented = {
        word for cells in tables(project, OPERATING) for word in re.findall(r"ws_\w+", cells[0])
    }
    exported = set(re.findall(r"^# HELP (ws_\w+)", text, re.MULTILINE))
    missing = {name for name in exported - documented if not name.endswith("_created")}
    assert not missing, f"{OPERATING}: no table has the metrics {sorted(missing)}"


def check_examples(project: Project) -> None:
    """Paste the examples into a copy; it must pass its tools and the tests of the examples."""
    ruff = venv_bin(project) / "ruff"
    examples = [block for block in blocks(project, "python", "sh") if block.document == EXTENDING]
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
        tests = sorted(name for name in pasted if name.startswith("tests/"))
        python = venv_bin(project) / "python"
        check_output([python, "-m", "pytest", "--quiet", *tests], copy.root)


def _paste(project: Project, block: Block) -> None:
    before = project.read(block.target) if (project.root / block.target).exists() else ""
    if block.language == "sh":
        project.write(block.target, f"{before}\n{block.body}")
    else:
        project.write(block.target, paste(before, block.body))


@cache
def representative(combination: Combination) -> Combination:
    """Return the first combination with the same examples, which is tested for the others."""
    return next(each for each in COMBINATIONS if _extending(each) == _extending(combination))


@cache
def _extending(combination: Combination) -> str:
    page = (TEMPLATE / PROJECT_DIRECTORY / EXTENDING).read_text(encoding="utf-8")
    return JINJA.from_string(page).render(cookiecutter=dict(combination.answers))
