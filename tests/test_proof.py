"""The proof fits every project, covers every hostile case, and fails for a broken engine."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proof import __main__ as command
from proof.overlay import NEEDS, OVERLAY, TARGET, files, lay_over, needed, render
from proof.project import MODULES, Answers, Unavailable, answers_of, options_of

from .checks.code import check_format, check_imports, check_lint, check_types
from .checks.files import needed_options, template_files
from .checks.proof import PROVED, proving_tests
from .combination import COMBINATIONS, DEFAULT, OPTIONS, TEMPLATE, Combination, find
from .conftest import Baker
from .process import environment, run
from .project import PROJECT_DIRECTORY, Project

# Every file of the proof is checked with one of these, without the options that it does not need.
DIFFERENT = ["jwt-rooms-heartbeat-redis", "jwt-redis", "jwt-rooms", "jwt", "ticket-redis"]

CASE = re.compile(r"^\| (\d+) \| .+ \| (.+) \| .*\|$", re.MULTILINE)


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_proof_passes_the_checks_of_the_project(
    baked: Baker, tmp_path: Path, name: str
) -> None:
    project = baked(find(name)).copy(tmp_path / "project")
    laid = lay_over(project.root)
    assert not [path for path in laid if "# {%" in project.read(path)]
    for check in (check_format, check_lint, check_types, check_imports):
        check(project)


def test_every_file_is_checked() -> None:
    everything = {path.relative_to(OVERLAY) for path in OVERLAY.rglob("*.py")}
    laid = {path for name in DIFFERENT for path in files(set(find(name).options))}
    assert everything <= laid


def test_every_module_runs_in_the_matrix() -> None:
    runs = {path for combination in PROVED for path in proving_tests(combination)}
    assert runs == {TARGET / path for path in files(set(OPTIONS)) if path.match("test_*.py")}


def test_the_proof_replaces_no_file_of_the_project() -> None:
    own = set(template_files())
    assert not [path for path in files(set(OPTIONS)) if TARGET / path in own]


def test_every_option_has_a_module() -> None:
    missing = OPTIONS - MODULES.keys()
    assert not missing, f"MODULES in proof/project.py lacks {missing}"
    assert not MODULES.keys() - OPTIONS


def test_the_table_names_options_and_files_that_exist() -> None:
    for options, paths in NEEDS.items():
        assert set(options) <= OPTIONS
        for path in paths:
            assert (OVERLAY / path).exists(), f"NEEDS in proof/overlay.py: {path}"


@pytest.mark.parametrize("path", files(set(OPTIONS)), ids=Path.as_posix)
def test_a_file_named_after_options_is_in_the_table(path: Path) -> None:
    assert needed_options(path) <= needed(path), "NEEDS in proof/overlay.py"


@pytest.mark.parametrize("combination", [*map(find, DIFFERENT), find("none"), find("session")])
def test_the_answers_are_read_from_the_project(baked: Baker, combination: Combination) -> None:
    answers = answers_of(baked(combination).root)
    assert answers == dict(combination.answers)
    assert options_of(answers) == set(combination.options)


def marked(answers: Answers) -> Iterator[int]:
    """Yield the hostile cases in the marks of the project's tests and of the proof."""
    options = options_of(answers)
    project = TEMPLATE / PROJECT_DIRECTORY
    own = [path for path in template_files() if needed_options(path) <= options]
    tests = [project / path for path in own if path.parts[0] == "tests"]
    tests += [OVERLAY / path for path in files(options)]
    for path in (path for path in tests if path.match("test_*.py")):
        for node in ast.walk(ast.parse(render(path, answers))):
            match node:
                case ast.Call(func=ast.Attribute(attr="hostile")):
                    yield from (ast.literal_eval(number) for number in node.args)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda combination: combination.id)
def test_each_hostile_case_that_applies_has_a_test(combination: Combination) -> None:
    answers = dict(combination.answers)
    cases = {
        int(number)
        for number, done in CASE.findall(render(Path("hostile.md"), answers))
        if not done.startswith("does not apply: ")
    }
    assert cases
    assert set(marked(answers)) == cases


def proving(project: Project, *arguments: str, what: str = "prove") -> tuple[int, str]:
    """Run a command of the proof; return its status and output."""
    done = run(
        [sys.executable, "-m", "proof", what, "--project", project.root, "--", *arguments],
        TEMPLATE,
        env=environment(),
        timeout_s=900,
    )
    return done.returncode, done.stdout + done.stderr


SHORT_TRIAL = ("--seconds", "1", "--clients", "2", "--seed", "7")

CHEAP = ("-k", "(illegal_frame and fragments) or only_one_path", "-n", "0")


def test_a_project_changed_by_a_team_is_proved(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "my-service")
    project.write("app/main.py", "raise SystemExit('needs a database')\n")
    project.write("tests/conftest.py", "import a_package_of_the_team\n")
    status, printed = proving(project, *CHEAP)
    assert status == 0, printed
    for number, case in ((12, "a message over the size limit"), (26, "an unknown path")):
        assert re.search(rf"^{number} passed +{case}", printed, re.MULTILINE)
    last = printed.splitlines()[-1]
    assert last == "proof of my-service (heartbeat, jwt, redis, rooms): passed"


def test_a_broken_engine_fails_the_proof(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "my-service")
    path = "app/realtime/server/process.py"
    text = project.read(path)
    assert "ws_max_size=" in text
    project.write(path, re.sub(r"ws_max_size=[^,]+", "ws_max_size=2**40", text))
    status, printed = proving(project, *CHEAP)
    assert status == 1
    assert "test_an_illegal_frame_ends_the_connection[too large with its fragments]" in printed
    assert re.search(r"^12 failed +a message over the size limit", printed, re.MULTILINE)
    assert printed.splitlines()[-1].endswith(": FAILED, see above")


def test_chaos_counts(baked: Baker) -> None:
    status, printed = proving(baked(DEFAULT), *SHORT_TRIAL, what="chaos")
    assert status == 0, printed
    assert re.search(r"^silently lost +0 ", printed, re.MULTILINE)


def test_scale_measures_each_operation(baked: Baker) -> None:
    small = ["--publications", "30", "--lease", "2", "--seconds", "1"]
    sizes = ["--operations", "2x3x2", "--floods", "2x3x1 2x1x16"]
    status, printed = proving(baked(DEFAULT), *small, *sizes, what="scale")
    assert status == 0, printed
    row = r"^\| (\d) \| (\d \| \d \| \d+ \| \w+) \| ([\d,]+) \| [-\d.]+ \| [\d,]+ \| ([\d,]+) \|"
    rows = re.findall(row, printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (shards, trial)
        for shards in ("1", "3")
        for trial in (
            "2 | 3 | 2 | join",
            "2 | 3 | 2 | publication",
            "2 | 3 | 2 | presence",
            "2 | 3 | 2 | recovery",
            "2 | 3 | 2 | renewal",
            "2 | 3 | 1 | saturated",
            "2 | 1 | 16 | saturated",
        )
    ]
    for _, trial, count, sent_bytes in rows:
        assert count != "0", printed
        if trial.endswith(("publication", "saturated")):  # two nodes get its 100 bytes of data
            assert int(sent_bytes.replace(",", "")) > 200, printed


@pytest.mark.parametrize("what", ["chaos", "scale"])
def test_a_trial_needs_rooms_and_redis(baked: Baker, what: str) -> None:
    project = baked(find("jwt"))
    status, printed = proving(project, what=what)
    message = f"error: {project.root}: {what} needs a project with rooms and Redis\n"
    assert (status, printed) == (1, message)


def test_a_directory_without_a_project_is_refused(tmp_path: Path, baked: Baker) -> None:
    options = command.parse(["prove", "--project", str(tmp_path)])
    with pytest.raises(Unavailable, match="was not made from this template"):
        command.run(options)
    project = baked(DEFAULT).copy(tmp_path / "project")
    (project.root / "requirements-dev.lock").unlink()
    options = command.parse(["prove", "--project", str(project.root)])
    with pytest.raises(Unavailable, match="has no requirements-dev"):
        command.run(options)
    (project.root / "app/realtime/auth/guest.py").touch()
    with pytest.raises(Unavailable, match="no single kind of authentication"):
        command.run(options)


def test_bad_arguments_are_reported_in_one_line() -> None:
    with pytest.raises(SystemExit, match="error: argument command: invalid choice: 'test'"):
        command.parse(["test"])
