"""The table of files is right, and the last words help."""

from pathlib import Path

import pytest

from hooks.post_gen_project import FILES, remove_unchosen

from .checks.files import EXCEPTIONS, needed_options, template_files
from .combination import DEFAULT, OPTIONS, Combination, find
from .project import bake


def test_each_file_is_in_the_table_once() -> None:
    paths = [path for paths in FILES.values() for path in paths]
    assert sorted(paths) == sorted(set(paths))


def test_the_table_agrees_with_the_names_of_the_template_s_files() -> None:
    named = {path.as_posix(): needed_options(path) for path in template_files()}
    owned = {path: set(options) for options, paths in FILES.items() for path in paths}
    assert owned == {path: options for path, options in named.items() if options}


def test_exceptions_to_the_names_are_files_of_the_template() -> None:
    assert set(EXCEPTIONS) <= {path.as_posix() for path in template_files()}


def test_every_option_in_the_table_can_be_chosen() -> None:
    assert {option for options in FILES for option in options} == OPTIONS


def test_a_missing_file_is_an_error_and_nothing_is_removed(tmp_path: Path) -> None:
    paths = [path for paths in FILES.values() for path in paths]
    for path in paths[1:]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(SystemExit, match=f"names missing files: {paths[0]}$"):
        remove_unchosen(tmp_path, set())
    assert all((tmp_path / path).exists() for path in paths[1:])


@pytest.mark.parametrize(
    ("combination", "first"),
    [
        (DEFAULT, "Made realtime-service: auth jwt, with heartbeat, redis, rooms."),
        (find("none"), "Made realtime-service: auth none, with no extras."),
    ],
    ids=["default", "least"],
)
def test_the_choices_and_the_next_commands_are_printed(
    template: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    combination: Combination,
    first: str,
) -> None:
    bake(template, tmp_path, combination)
    lines = capfd.readouterr().out.splitlines()
    assert lines[:3] == [first, "Next:", "  cd realtime-service"]
    assert [line.split("#")[0].strip() for line in lines[3:]] == ["make run", "make test"]
