"""The table of files is complete, other files stay, and the summary names the next commands."""

import sys
from pathlib import Path

import pytest

from hooks import pre_gen_project
from hooks.post_gen_project import FILES, FILES_BEFORE, remove_unchosen

from .checks.files import EXCEPTIONS, needed_options, template_files
from .combination import OPTIONS, Combination, find
from .process import environment, run
from .project import bake


def test_each_file_is_in_the_table_once() -> None:
    paths = [path for paths in FILES.values() for path in paths]
    assert sorted(paths) == sorted(set(paths))


def test_the_table_agrees_with_the_names_of_the_template_s_files() -> None:
    named = {path.as_posix(): needed_options(path) for path in template_files()}
    owned = {path: set(options) for options, paths in FILES.items() for path in paths}
    for path, options in named.items():
        if options != owned.get(path, set()):
            pytest.fail(
                f"{path}: FILES in hooks/post_gen_project.py says that it is of "
                f"{sorted(owned.get(path, set()))}, its name or EXCEPTIONS in "
                f"tests/checks/files.py says {sorted(options)}"
            )
    gone = owned.keys() - named.keys()
    assert not gone, f"FILES in hooks/post_gen_project.py names files that are not there: {gone}"


def test_exceptions_to_the_names_are_files_of_the_template() -> None:
    assert set(EXCEPTIONS) <= {path.as_posix() for path in template_files()}


def test_every_option_in_the_table_can_be_chosen() -> None:
    owners = {option for options in FILES for option in options}
    assert owners == OPTIONS, (
        f"FILES in hooks/post_gen_project.py: no files of {sorted(OPTIONS - owners)}, "
        f"no option is called {sorted(owners - OPTIONS)}"
    )


def test_a_missing_file_is_an_error_and_nothing_is_removed(tmp_path: Path) -> None:
    paths = [path for paths in FILES.values() for path in paths]
    for path in paths[1:]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(SystemExit, match=f"names missing files: {paths[0]}$"):
        remove_unchosen(tmp_path, set(), {})
    assert all((tmp_path / path).exists() for path in paths[1:])


def test_the_hooks_hand_over_in_the_same_file() -> None:
    assert pre_gen_project.FILES_BEFORE == FILES_BEFORE


OWN = "# The team's own.\n"


def bake_over_own_files(template: Path, tmp_path: Path, *flags: str) -> tuple[Path, str]:
    """Bake the least project where there is one with files that other options would own."""
    project = tmp_path / "output" / "support-chat"
    home = tmp_path / "home"
    home.mkdir()
    for path in ("app/rooms.py", "dev/chaos/client.py", "dev/chaos/own.py"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(OWN, encoding="utf-8")
    answers = [f"{name}={answer}" for name, answer in find("none").answers]
    answers.append(f"project_slug={project.name}")
    command: list[str | Path] = [sys.executable, "-m", "cookiecutter", template, "--no-input"]
    done = run(
        [*command, "--output-dir", project.parent, *flags, *answers],
        tmp_path,
        env=environment(HOME=str(home), TMPDIR=str(home)),
    )
    assert done.returncode == 0, done.stderr
    assert not (project / FILES_BEFORE).exists()
    assert not (project / "app" / "presence.py").exists()
    assert (project / "dev" / "chaos" / "own.py").read_text(encoding="utf-8") == OWN
    return project, done.stdout


def test_a_file_that_was_not_written_by_this_run_stays(template: Path, tmp_path: Path) -> None:
    project, printed = bake_over_own_files(
        template, tmp_path, "--overwrite-if-exists", "--skip-if-file-exists"
    )
    own = ["app/rooms.py", "dev/chaos/client.py"]
    for path in own:
        assert (project / path).read_text(encoding="utf-8") == OWN
    assert f"Kept files of options that were not chosen: {', '.join(own)}\n" in printed


def test_a_file_that_was_overwritten_by_this_run_goes(template: Path, tmp_path: Path) -> None:
    project, printed = bake_over_own_files(template, tmp_path, "--overwrite-if-exists")
    assert not (project / "app" / "rooms.py").exists()
    assert not (project / "dev" / "chaos" / "client.py").exists()
    assert "Kept" not in printed


@pytest.mark.parametrize(
    ("combination", "first"),
    [
        (find("jwt-rooms-redis"), "auth jwt, with redis, rooms."),
        (find("none"), "auth none, with no extras."),
    ],
    ids=["some", "least"],
)
def test_the_choices_and_the_next_commands_are_printed(
    template: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    combination: Combination,
    first: str,
) -> None:
    slug = bake(template, tmp_path, combination).root.name
    lines = capfd.readouterr().out.splitlines()
    assert lines[:3] == [f"Made {slug}: {first}", "Next:", f"  cd {slug}"]
    assert [line.split("#")[0].strip() for line in lines[3:]] == ["make run", "make test"]
