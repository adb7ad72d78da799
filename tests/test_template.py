"""The template is a living program: its Python is valid without rendering."""

import ast
import sys
from pathlib import Path

import pytest

from .checks.files import template_files
from .combination import QUESTIONS, TEMPLATE
from .process import environment, run
from .project import PROJECT_DIRECTORY

MODULES = [path for path in template_files() if path.suffix == ".py"]


def source(path: Path) -> str:
    """Return a file of the template as it stands."""
    return (TEMPLATE / PROJECT_DIRECTORY / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=Path.as_posix)
def test_python_needs_no_rendering(path: Path) -> None:
    text = source(path)
    assert "{{" not in text
    tree = ast.parse(text, filename=str(path))
    if path.parts[0] == "app":
        assert not [name for name in imported(tree) if name.split(".")[0] == "app"]


@pytest.mark.parametrize("path", MODULES, ids=Path.as_posix)
def test_protocol_methods_with_a_result_have_an_ellipsis(path: Path) -> None:
    """Pyright treats only such methods as abstract."""
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.ClassDef) and "Protocol" in map(base_name, node.bases):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.returns:
                    returns_none = ast.unparse(method.returns) == "None"
                    is_abstract = ast.unparse(method.body[-1]) == "..."
                    assert returns_none or is_abstract, f"{path}: {node.name}.{method.name}"


def base_name(base: ast.expr) -> str:
    """Return the name of a base class, without type parameters."""
    return ast.unparse(base).partition("[")[0]


def imported(tree: ast.AST) -> list[str]:
    """Return the absolute names that a module imports."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return names


def test_every_question_has_a_prompt_without_markup() -> None:
    asked = {name for name in QUESTIONS if not name.startswith("_")}
    prompts = QUESTIONS["__prompts__"]
    assert prompts.keys() == asked, "__prompts__ in cookiecutter.json must have every question"
    for name in (name for name in asked if isinstance(QUESTIONS[name], list)):
        assert prompts[name].keys() == {"__prompt__", *QUESTIONS[name]}, (
            f"__prompts__ in cookiecutter.json must have every answer to {name}"
        )
    for prompt in prompts.values():
        for line in [prompt] if isinstance(prompt, str) else prompt.values():
            # Cookiecutter would take [text] for markup and drop it.
            assert "[" not in line


def test_defaults_make_a_project(template: Path, tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "output"
    home.mkdir()
    done = run(
        [sys.executable, "-m", "cookiecutter", ".", "--no-input", "--output-dir", output],
        template,
        env=environment(HOME=str(home), TMPDIR=str(home), PWD=str(template)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (project,) = output.iterdir()
    assert f"Made {project.name}: " in done.stdout
