"""The project's documents mention what users can set, and what clients can ask for."""

import ast
from collections.abc import Iterator

from tests.project import Project

COMMANDS_FILE = "README.md"
SETTINGS_FILE = ".env.example"


def check_docs(project: Project) -> None:
    """Look for each command in a table of the README, for each setting in ``.env.example``."""
    commands, settings = set(commands_of(project)), set(settings_of(project))
    assert commands, "app/ has no commands"
    assert settings, "app/ has no settings"
    readme, example = project.read(COMMANDS_FILE), project.read(SETTINGS_FILE)
    listed = {line.lstrip("#").partition("=")[0] for line in example.splitlines()}
    missing = [
        *(
            f"{COMMANDS_FILE}: no table has the command {name}"
            for name in sorted(commands)
            if f"| `{name}` |" not in readme
        ),
        *(f"{SETTINGS_FILE}: the setting {name} is missing" for name in sorted(settings - listed)),
    ]
    assert not missing, "\n".join(missing)


def commands_of(project: Project) -> Iterator[str]:
    """Yield the ``type`` of each command: ``type: Literal["send"]`` in a subclass of Command."""
    for name, annotation in _fields(project, "Command"):
        if name == "type":
            yield from (
                str(node.value) for node in ast.walk(annotation) if isinstance(node, ast.Constant)
            )


def settings_of(project: Project) -> Iterator[str]:
    """Yield the name of each setting, as in the environment: a field of a part of the settings."""
    for name, annotation in _fields(project, "SettingsPart"):
        if not ast.unparse(annotation).startswith("ClassVar"):
            yield name.upper()


def _fields(project: Project, base: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield names and types of the fields in a base class and its subclasses."""
    modules = (project.read(path) for path in project.files() if path.match("app/*.py"))
    trees = (ast.walk(ast.parse(module)) for module in modules)
    for node in (node for tree in trees for node in tree if isinstance(node, ast.ClassDef)):
        if base in {node.name, *(ast.unparse(each) for each in node.bases)}:
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, field.annotation
