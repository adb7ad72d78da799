"""Baking with pytest-cookies, for the meta-tests and for a fork."""

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies

from .combination import DEFAULT, QUESTIONS, TEMPLATE
from .conftest import Baker
from .process import environment, run
from .project import bake


def test_a_combination_is_baked_once(baked: Baker) -> None:
    assert baked(DEFAULT) is baked(DEFAULT)


def test_a_user_s_configuration_changes_nothing(
    cookies: Cookies, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "cookiecutterrc"
    configuration.write_text(json.dumps({"default_context": {"description": "From the user."}}))
    monkeypatch.setenv("COOKIECUTTER_CONFIG", str(configuration))
    project = bake(cookies, template, DEFAULT)
    assert project.context["description"] == QUESTIONS["description"]
    assert "From the user." not in project.read("pyproject.toml")


def test_no_temporary_file_is_left(
    cookies: Cookies, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    bake(cookies, template, DEFAULT)
    assert list(directory.iterdir()) == []
    assert tempfile.tempdir == str(directory)


def test_a_refused_answer_is_an_exception(cookies: Cookies, template: Path) -> None:
    with pytest.raises(Exception, match="Hook script failed"):
        bake(cookies, template, DEFAULT, {"project_slug": "UPPER"})


def test_the_documented_test_of_a_fork_passes(tmp_path: Path) -> None:
    page = (TEMPLATE / "docs" / "forking.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?cookies\.bake.*?)^```", page, re.M | re.S)
    (tmp_path / "test_fork.py").write_text(example, encoding="utf-8")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "--template",
        TEMPLATE,
        "test_fork.py",
    ]
    done = run(command, tmp_path, env=environment(TMPDIR=str(tmp_path)))
    assert "1 passed" in done.stdout, done.stdout
