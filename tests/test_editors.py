"""Editors that use pyright show no error in a team's files."""

from pathlib import Path

from .checks.docs import EXTENDING
from .combination import DEFAULT
from .conftest import Baker
from .documents import blocks_of, paste
from .process import check_output
from .venv import npm_directory, venv_bin

PYRIGHT = "pyright@1.1.414"


def test_pyright_finds_nothing(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    for example in blocks_of(EXTENDING, project.read(EXTENDING), "python"):
        file = project.root / example.target
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        project.write(example.target, paste(before, example.body))
    pyright = npm_directory(PYRIGHT) / "node_modules/.bin/pyright"
    check_output([pyright, "--pythonpath", venv_bin(project) / "python"], project.root)
