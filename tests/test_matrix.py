"""Every combination of answers passes every check."""

import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .checks import CHECKS
from .checks.proof import PROVED, check_proof
from .combination import CHOICES, COMBINATIONS, DEFAULT, OPTIONS, QUESTIONS, TEMPLATE, Combination
from .conftest import Baker
from .process import check_output, environment
from .venv import package_bin, venv_bin


# Longest tests first, so that no worker is idle at the end.
@pytest.mark.parametrize("combination", PROVED, ids=lambda combination: combination.id)
def test_proof(
    combination: Combination, baked: Baker, record_property: Callable[[str, object], None]
) -> None:
    record_property("check", "proof")
    check_proof(baked(combination))


# One worker runs all checks of a project, which it bakes once.
@pytest.mark.parametrize(
    "combination",
    [
        pytest.param(each, id=each.id, marks=pytest.mark.xdist_group(each.id))
        for each in COMBINATIONS
    ],
)
@pytest.mark.parametrize("check", CHECKS)
def test_project(
    check: str,
    combination: Combination,
    baked: Baker,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("check", check)
    CHECKS[check](baked(combination))


def test_projects_tolerate_other_pytest_plugins(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    plugins = package_bin("pytest-asyncio==1.5.0", "pytest-aiohttp==1.1.1")
    (packages,) = plugins.parent.glob("lib/python*/site-packages")
    (own,) = venv_bin(project).parent.glob("lib/python*/site-packages")
    check_output(
        [venv_bin(project) / "python", "-m", "pytest", "--quiet", "tests/realtime/limits"],
        project.root,
        # The plugins come last, so that other packages are the project's own.
        env=environment(PYTHONPATH=os.pathsep.join(map(str, [own, packages]))),
    )


def test_every_combination_has_a_unique_id() -> None:
    assert len({combination.id for combination in COMBINATIONS}) == len(COMBINATIONS)
    assert len(COMBINATIONS) == math.prod(len(choices) for choices in CHOICES.values())
    assert DEFAULT in COMBINATIONS
    assert Combination((("auth", "none"), ("rooms", False), ("redis", True))).id == "none-redis"


def test_no_option_is_part_of_another_word_in_an_id() -> None:
    words = [*CHECKS, *OPTIONS, "test_project", "test_matrix"]
    for option in OPTIONS:
        others = [word for word in words if option in word and word != option]
        assert not others, f"rename {option} in cookiecutter.json: -k would find it in {others}"


def test_expressions_select_variants() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", __file__]
    printed = check_output([*command, "-k", "jwt and not redis"], TEMPLATE)
    picked = set(re.findall(r"^tests/\S+::test_project\[.*", printed, re.MULTILINE))
    assert picked == {
        f"tests/test_matrix.py::test_project[{check}-{combination.id}]"
        for check in CHECKS
        for combination in COMBINATIONS
        if "jwt" in combination.options and "redis" not in combination.options
    }


def test_the_shards_of_the_workflow_cover_all_tests() -> None:
    workflow = yaml.safe_load((TEMPLATE / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    shards = workflow["jobs"]["test"]["strategy"]["matrix"]["shard"]
    missing = set(QUESTIONS["auth"]) - set(shards)
    assert not missing, f".github/workflows/ci.yml has no shard for {missing}"
    *named, others = shards
    assert others == f"not ({' or '.join(named)})"
