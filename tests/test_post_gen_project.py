"""The hook removes the files of options that were not chosen, and prints a summary."""

import shutil
import sys
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies

from hooks import pre_gen_project
from hooks.post_gen_project import (
    FILES_BEFORE,
    PATHS,
    UNFINISHED,
    remove_unchosen,
    remove_unfinished,
)

from .checks.files import EXCEPTIONS, needed_options, template_files
from .combination import OPTIONS, Combination, find
from .process import check_output, environment, run
from .project import PROJECT_DIRECTORY, bake


def owners(path: Path) -> set[str]:
    """Return the options that the table gives to a file or to a directory above it."""
    above = {path.as_posix(), *(parent.as_posix() for parent in path.parents)}
    return {option for options, paths in PATHS.items() if above & {*paths} for option in options}


def test_each_path_is_in_the_table_once() -> None:
    paths = [path for paths in PATHS.values() for path in paths]
    assert sorted(paths) == sorted(set(paths))


@pytest.mark.parametrize("path", template_files(), ids=Path.as_posix)
def test_the_table_agrees_with_the_names_of_the_template_s_files(path: Path) -> None:
    assert owners(path) == needed_options(path), (
        f"{path}: PATHS in hooks/post_gen_project.py says that it is of {sorted(owners(path))}, "
        f"its name or EXCEPTIONS in tests/checks/files.py says {sorted(needed_options(path))}"
    )


def test_exceptions_to_the_names_exist() -> None:
    assert set(EXCEPTIONS) <= {path.as_posix() for path in template_files()}


def test_every_option_in_the_table_can_be_chosen() -> None:
    known = {option for options in PATHS for option in options}
    assert known == OPTIONS, (
        f"PATHS in hooks/post_gen_project.py: no files of {sorted(OPTIONS - known)}, "
        f"no option is called {sorted(known - OPTIONS)}"
    )


def test_a_missing_file_is_an_error_and_nothing_is_removed(template: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(template / PROJECT_DIRECTORY, project)
    missing = PATHS["heartbeat",][0]
    (project / missing).unlink()
    before = sorted(project.rglob("*"))
    with pytest.raises(SystemExit, match=f"names missing files: {missing}$"):
        remove_unchosen(project, set(), {})
    assert sorted(project.rglob("*")) == before


def test_both_hooks_use_the_same_file() -> None:
    assert pre_gen_project.FILES_BEFORE == FILES_BEFORE


OWN = "# The team's own.\n"
OWN_FILE = "app/realtime/rooms/聊.py"
OVERWRITTEN = ["app/realtime/redis/client.py", "app/realtime/rooms/rooms.py"]


def bake_over_own_files(template: Path, tmp_path: Path, *flags: str) -> tuple[Path, str]:
    """Bake a project without options over existing files at paths of options."""
    project = tmp_path / "output" / "support-chat"
    home = tmp_path / "home"
    home.mkdir()
    for path in (*OVERWRITTEN, OWN_FILE):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(OWN, encoding="utf-8")
    answers = [f"{name}={answer}" for name, answer in find("none").answers]
    answers.append(f"project_slug={project.name}")
    command: list[str | Path] = [sys.executable, "-m", "cookiecutter", template, "--no-input"]
    done = run(
        [*command, "--output-dir", project.parent, *flags, *answers],
        tmp_path,
        env=environment(HOME=str(home), TMPDIR=str(home), PYTHONIOENCODING="ascii"),
    )
    assert done.returncode == 0, done.stderr
    assert not (project / FILES_BEFORE).exists()
    assert not (project / "app/realtime/rooms/presence.py").exists()
    assert (project / OWN_FILE).read_text(encoding="utf-8") == OWN
    return project, done.stderr.encode().decode("unicode_escape")


def test_a_file_not_written_by_this_run_is_kept(template: Path, tmp_path: Path) -> None:
    project, printed = bake_over_own_files(
        template, tmp_path, "--overwrite-if-exists", "--skip-if-file-exists"
    )
    for path in OVERWRITTEN:
        assert (project / path).read_text(encoding="utf-8") == OWN
    kept = ", ".join(sorted([*OVERWRITTEN, OWN_FILE]))
    assert f"Kept files of options that were not chosen: {kept}\n" in printed


def test_a_file_overwritten_by_this_run_is_removed(template: Path, tmp_path: Path) -> None:
    project, printed = bake_over_own_files(template, tmp_path, "--overwrite-if-exists")
    for path in OVERWRITTEN:
        assert not (project / path).exists()
    assert f"Kept files of options that were not chosen: {OWN_FILE}\n" in printed


def test_files_behind_a_symbolic_link_are_not_removed(template: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(template / PROJECT_DIRECTORY, project)
    elsewhere = tmp_path / "elsewhere"
    (project / "app/realtime/redis").rename(elsewhere)
    (project / "app/realtime/redis").symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    remove_unchosen(project, {*OPTIONS} - {"redis"}, {})
    assert sorted(elsewhere.rglob("*")) == before


def test_a_makefile_of_the_user_is_not_removed(tmp_path: Path) -> None:
    mark = tmp_path / UNFINISHED
    mark.write_bytes(b"include Makefile\n# caf\xe9\n")
    remove_unfinished(tmp_path)
    assert mark.exists()


def test_without_hooks_every_target_of_make_fails(template: Path, tmp_path: Path) -> None:
    env = environment(HOME=str(tmp_path), TMPDIR=str(tmp_path))
    options: list[str | Path] = [
        "--no-input",
        "--accept-hooks",
        "no",
        "--output-dir",
        tmp_path / "output",
    ]
    check_output([sys.executable, "-m", "cookiecutter", template, *options], tmp_path, env=env)
    (project,) = (tmp_path / "output").iterdir()
    for target in ("run", "test"):
        done = run(["make", target], project)
        assert done.returncode != 0
        assert done.stdout == ""
        assert "hooks failed or did not run" in done.stderr
        assert done.stderr.count("\n") == 1
    # Again with hooks, which keeps what is there.
    options = ["--no-input", "-f", "-s", "--output-dir", project.parent]
    check_output([sys.executable, "-m", "cookiecutter", template, *options], tmp_path, env=env)
    assert "make run" in check_output(["make", "help"], project)


def test_an_existing_directory_with_a_refused_name_stays_unfinished(
    template: Path, tmp_path: Path
) -> None:
    project = tmp_path / "redis"
    project.mkdir()
    (project / "notes.txt").touch()
    env = environment(HOME=str(tmp_path), TMPDIR=str(tmp_path))
    command: list[str | Path] = [sys.executable, "-m", "cookiecutter", template, "--no-input"]
    command += ["--overwrite-if-exists", "--output-dir", tmp_path, "project_slug=redis"]
    done = run(command, tmp_path, env=env)
    assert "error: project_slug: is the name of a package that the project needs" in done.stderr
    assert (project / "notes.txt").exists()
    assert "unfinished" in run(["make", "help"], project).stderr


@pytest.mark.parametrize(
    ("combination", "first"),
    [
        (find("jwt-rooms-redis"), "auth jwt, with redis, rooms."),
        (find("none"), "auth none, with no extras."),
    ],
    ids=["some", "least"],
)
def test_the_choices_and_the_next_commands_are_printed(
    cookies: Cookies,
    template: Path,
    capfd: pytest.CaptureFixture[str],
    combination: Combination,
    first: str,
) -> None:
    slug = bake(cookies, template, combination).root.name
    lines = capfd.readouterr().out.splitlines()
    assert lines[:3] == [f"Made {slug}: {first}", "Next:", f"  cd {slug}"]
    assert [line.split("#")[0].strip() for line in lines[3:]] == ["make run", "make test"]
