"""A project records its version and answers, and takes a new engine without conflicts."""

import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from hooks.post_gen_project import record_template, repository_url

from .combination import DEFAULT, QUESTIONS, TEMPLATE
from .conftest import Baker
from .process import check_output, environment, run
from .project import PROJECT_DIRECTORY

DESCRIPTION = "What we do."
LINK_LATER = "To get updates, run in the new project: cruft link TEMPLATE\n"
OWN_HANDLERS = "\n# A command of the team's own.\n"
OWN_POLICY = "# A rule of the team's own.\n"
OWN_DEPENDENCY = '  "aiosqlite>=0.21",\n'

CHANGED = ("app/realtime/jobs.py", "dev/env.py", "tests/dev/test_tools.py")
ADDED = "app/realtime/added.py"
REMOVED = "tests/realtime/test_protocol.py"
UNRELEASED = "app/realtime/errors.py"
VERSION = "v1.1.0"
NEW_ENGINE = "\n# Version 2 of the engine.\n"


def git(directory: Path, *arguments: str) -> str:
    """Run git without the user's configuration."""
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    return check_output(
        ["git", *settings, *arguments], directory, env=environment(GIT_CONFIG_GLOBAL="/dev/null")
    )


def commit_all(directory: Path) -> str:
    """Commit all files, and return the commit."""
    if not (directory / ".git").exists():
        git(directory, "init", "--quiet")
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "--message", "x")
    return git(directory, "rev-parse", "HEAD").strip()


def append(path: Path, text: str) -> None:
    """Add text to the end of a file."""
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """Return a git repository with the template."""
    repository = tmp_path / "ws-template"
    shutil.copytree(template, repository)
    commit_all(repository)
    return repository


def make(tool: str, repository: Path | str, directory: Path, **env: str) -> Path:
    """Make a project with Cookiecutter or cruft, and return its directory."""
    commands: dict[str, list[str | Path]] = {
        "cookiecutter": [repository, "--no-input", f"description={DESCRIPTION}"],
        "cruft": [
            "create",
            repository,
            "-y",
            "--extra-context",
            f'{{"description":"{DESCRIPTION}"}}',
        ],
    }
    home, output = directory / "home", directory / "output"
    home.mkdir()
    output.mkdir()
    check_output(
        [sys.executable, "-m", tool, *commands[tool]],
        output,
        env=environment(HOME=str(home), TMPDIR=str(home), **env),
    )
    (project,) = output.iterdir()
    return project


def test_a_project_records_the_version_and_the_options(baked: Baker) -> None:
    record = tomllib.loads(baked(DEFAULT).read("pyproject.toml"))["tool"]["ws-template"]
    assert record == {"version": QUESTIONS["_version"], "options": [*DEFAULT.options]}


def test_the_changelog_begins_with_the_version_of_the_template() -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert released[:1] in ([], [QUESTIONS["_version"]])


def test_cookiecutter_records_the_template_as_cruft_does(repository: Path, tmp_path: Path) -> None:
    states = []
    for tool in ("cookiecutter", "cruft"):
        (tmp_path / tool).mkdir()
        file = make(tool, repository, tmp_path / tool) / ".cruft.json"
        state = json.loads(file.read_text(encoding="utf-8"))
        answers = state["context"]["cookiecutter"].items()
        state["context"] = {name: answer for name, answer in answers if not name.startswith("_")}
        states.append(state)
    assert states[0] == states[1]
    assert states[0]["context"]["description"] == DESCRIPTION


def test_a_cloned_template_is_recorded_by_its_address(repository: Path, tmp_path: Path) -> None:
    project = make("cookiecutter", f"git+{repository.as_uri()}", tmp_path)
    state = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    assert state["template"] == repository.as_uri()
    assert state["commit"] == git(repository, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://me:secret@example.com/x.git", "https://example.com/x.git"),
        ("https://secret@example.com/x.git", "https://example.com/x.git"),
        ("ssh://git:secret@example.com/x.git", "ssh://git@example.com/x.git"),
        ("ssh://git@example.com/x.git", "ssh://git@example.com/x.git"),
        ("git@example.com:me/x.git", "git@example.com:me/x.git"),
    ],
)
def test_passwords_are_not_recorded(repository: Path, url: str, recorded: str) -> None:
    git(repository, "remote", "add", "origin", url)
    assert repository_url(repository) == recorded


def test_another_repository_in_the_environment_is_not_recorded(
    repository: Path, tmp_path: Path
) -> None:
    project = make("cookiecutter", repository, tmp_path, GIT_DIR=str(TEMPLATE / ".git"))
    state = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    assert state["commit"] == git(repository, "rev-parse", "HEAD").strip()


def test_a_relative_path_is_recorded_as_an_absolute_one(repository: Path, tmp_path: Path) -> None:
    template = os.path.relpath(repository, tmp_path / "output")
    project = make("cookiecutter", template, tmp_path, PWD=str(tmp_path / "output"))
    state = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    assert state["template"] == str(repository)
    assert state["commit"] == git(repository, "rev-parse", "HEAD").strip()


def test_where_a_relative_path_is_unknown_a_line_says_what_to_do(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "output" / "project"
    project.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWD", str(tmp_path / "else" / "where"))
        relative = f"../{repository.name}"
        record_template(project, {"_repo_dir": relative, "_template": relative})
    assert capfd.readouterr().err == LINK_LATER
    assert not (project / ".cruft.json").exists()


@pytest.mark.parametrize("cause", ["no git", "another owner"])
def test_where_git_cannot_read_the_template_a_line_says_what_to_do(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    cause: str,
) -> None:
    if cause == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    record_template(tmp_path, {"_repo_dir": str(repository), "_template": str(repository)})
    assert capfd.readouterr().err == LINK_LATER
    assert not (tmp_path / ".cruft.json").exists()


def test_a_project_of_which_all_files_stay_is_not_recorded_anew(
    repository: Path, tmp_path: Path
) -> None:
    project = make("cookiecutter", repository, tmp_path)
    record = project / ".cruft.json"
    old = record.read_text(encoding="utf-8")
    append(repository / "hooks/pre_gen_project.py", "# New\n")
    head = commit_all(repository)
    command: list[str | Path] = [sys.executable, "-m", "cookiecutter", repository]
    command += ["--no-input", "--overwrite-if-exists", "rooms=no"]
    check_output([*command, "--skip-if-file-exists"], project.parent)
    assert record.read_text(encoding="utf-8") == old
    check_output(command, project.parent)
    assert json.loads(record.read_text(encoding="utf-8"))["commit"] == head


def test_a_template_without_git_is_accepted(template: Path, tmp_path: Path) -> None:
    project = make("cookiecutter", template, tmp_path)
    assert not (project / ".cruft.json").exists()


def release(repository: Path) -> None:
    """Release a version that changes the engine, `dev`, their tests, and files that teams edit."""
    project = repository / PROJECT_DIRECTORY
    questions = QUESTIONS | {"_version": "9.0.0"}
    (repository / "cookiecutter.json").write_text(json.dumps(questions), encoding="utf-8")
    for path in (*CHANGED, "app/handlers.py", "tests/conftest.py"):
        append(project / path, NEW_ENGINE)
    (project / ADDED).write_text('"""A new module."""\n', encoding="utf-8")
    (project / REMOVED).unlink()
    commit_all(repository)
    git(repository, "tag", VERSION)
    append(project / UNRELEASED, NEW_ENGINE)
    commit_all(repository)


def documented_command(project: Path) -> list[str]:
    """Return the command in the project's documents, with the cruft that is installed here."""
    page = (project / "docs" / "operating.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^pipx run cruft(.*)$", page, re.MULTILINE)
    return [sys.executable, "-m", "cruft", *str(command).split()]


@pytest.mark.parametrize("tool", ["cookiecutter", "cruft"])
def test_a_new_engine_comes_without_conflicts(repository: Path, tmp_path: Path, tool: str) -> None:
    project = make(tool, repository, tmp_path)
    commit_all(project)
    append(project / "app/handlers.py", OWN_HANDLERS)
    append(project / "app/policy.py", OWN_POLICY)
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    own_pyproject = pyproject.replace(
        "dependencies = [\n", f"dependencies = [\n{OWN_DEPENDENCY}", 1
    )
    (project / "pyproject.toml").write_text(own_pyproject, encoding="utf-8")
    own = commit_all(project)
    release(repository)

    done = run(documented_command(project), project, env=environment(HOME=str(tmp_path / "home")))
    assert done.returncode == 0, done.stderr
    conflicts = git(project, "diff", "--name-only", "--diff-filter=U", own)
    assert conflicts == "", f"{conflicts}{done.stdout}{done.stderr}"
    commit_all(project)
    changed = git(project, "diff", "--name-only", "--no-renames", own).splitlines()
    assert set(changed) == {".cruft.json", "pyproject.toml", *CHANGED, ADDED, REMOVED}
    updated = (project / "pyproject.toml").read_text(encoding="utf-8")
    assert updated == own_pyproject.replace(f'"{QUESTIONS["_version"]}"', '"9.0.0"')
    for path in CHANGED:
        assert NEW_ENGINE in (project / path).read_text(encoding="utf-8")
    assert (project / ADDED).is_file()
    assert not (project / REMOVED).exists()
    # It is up to date now.
    check_output([sys.executable, "-m", "cruft", "check", "--checkout", VERSION], project)
