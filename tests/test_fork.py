"""A fork with another name and one more option passes the same tests."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from .combination import QUESTIONS, TEMPLATE
from .process import run
from .project import PROJECT_DIRECTORY, WORKING_FILES
from .venv import CACHE

OPTION_FILE = "app/realtime/transcript.py"
OPTION = '''\
"""A transcript."""

from .fields import SettingsPart


class TranscriptSettings(SettingsPart):
    """How long it is."""

    transcript_lines: int = 10
'''

# The edits in the guide of docs/forking.md: file, the line before (empty: the end), new lines.
GUIDE = [
    ("cookiecutter.json", '"__prompts__": {', '"transcript": "Transcript: yes or no",\n'),
    ("hooks/pre_gen_project.py", "CHOICES: ", '    "transcript": (True, False),\n'),
    ("hooks/post_gen_project.py", "PATHS: ", f'    ("transcript",): ("{OPTION_FILE}",),\n'),
    ("proof/project.py", "MODULES: ", '    "transcript": "transcript.py",\n'),
    ("tests/checks/traces.py", "WORDS: ", '    "transcript": "transcript",\n'),
    ("tests/checks/traces.py", "EXAMPLES: ", '    "transcript": "a transcript",\n'),
    (f"{PROJECT_DIRECTORY}/pyproject.toml", '  "server",', '  "transcript",\n'),
    (f"{PROJECT_DIRECTORY}/.env.example", "", "# How many lines it has\n#TRANSCRIPT_LINES=10\n"),
]

TESTS = [
    "tests/test_pre_gen_project.py::test_the_hook_knows_every_question",
    "tests/test_template.py::test_every_question_has_a_prompt_without_markup",
    "tests/test_template.py::test_defaults_make_a_project",
    "tests/test_planted.py::test_each_option_has_trace_words",
    "tests/test_proof.py::test_every_option_has_a_module",
    "tests/test_post_gen_project.py::test_every_option_in_the_table_can_be_chosen",
    "tests/test_post_gen_project.py::test_the_table_agrees_with_the_names_of_the_template_s_files"
    f"[{OPTION_FILE}]",
    "tests/test_matrix.py::test_every_combination_has_a_unique_id",
    "tests/test_matrix.py::test_no_option_is_part_of_another_word_in_an_id",
    "tests/test_texts.py::test_typed_text[emoji]",
    *(
        f"tests/test_matrix.py::test_project[{check}-{combination}]"
        for check in (
            "context",
            "data",
            "docs",
            "files",
            "format",
            "imports",
            "lint",
            "text",
            "traces",
        )
        for combination in ("none-transcript", "none")
        if (check, combination) != ("docs", "none")
    ),
]


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """Return a copy of the template with one more module and a question for it."""
    fork = tmp_path / "fork"
    ignored = shutil.ignore_patterns(*WORKING_FILES, ".git", ".cache", ".bench", "demo")
    shutil.copytree(TEMPLATE, fork, ignore=ignored)
    (fork / ".cache").mkdir()
    (fork / ".cache" / "venvs").symlink_to(CACHE / "venvs")
    questions = QUESTIONS | {"project_name": "Support Chat", "transcript": True}
    text = json.dumps(questions, indent=2)
    (fork / "cookiecutter.json").write_text(text, encoding="utf-8")
    (fork / PROJECT_DIRECTORY / OPTION_FILE).write_text(OPTION, encoding="utf-8")
    return fork


def failures(fork: Path) -> tuple[set[str], str]:
    """Run the fork's tests; return the failed ones and the output."""
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *TESTS]
    done = run(command, fork, timeout_s=1_800)
    printed = done.stdout + done.stderr
    return set(
        re.findall(r"^(?:FAILED|ERROR) tests/\w+\.py::(\S+)", printed, re.MULTILINE)
    ), printed


def test_each_failure_names_the_place_to_edit(fork: Path) -> None:
    failed, printed = failures(fork)
    assert failed == {
        "test_the_hook_knows_every_question",
        "test_every_question_has_a_prompt_without_markup",
        "test_each_option_has_trace_words",
        "test_every_option_has_a_module",
        "test_every_option_in_the_table_can_be_chosen",
        f"test_the_table_agrees_with_the_names_of_the_template_s_files[{OPTION_FILE}]",
        "test_project[docs-none-transcript]",
        "test_project[files-none]",
        "test_project[imports-none-transcript]",
        "test_project[imports-none]",
    }, printed
    for place in (
        "CHOICES in hooks/pre_gen_project.py",
        "__prompts__ in cookiecutter.json",
        "WORDS in tests/checks/traces.py lacks {'transcript'}",
        "MODULES in proof/project.py lacks {'transcript'}",
        f"{OPTION_FILE}: PATHS in hooks/post_gen_project.py",
        "PATHS in hooks/post_gen_project.py: no files of ['transcript']",
        ".env.example: the settings ['TRANSCRIPT_LINES'] are missing",
    ):
        assert place in printed, place


def test_the_guide_is_complete(fork: Path) -> None:
    guide = (
        (TEMPLATE / "docs/forking.md")
        .read_text(encoding="utf-8")
        .partition("## Adding an option")[2]
    )
    for file, before, text in GUIDE:
        assert f"`{file.removeprefix(f'{PROJECT_DIRECTORY}/')}`" in guide, file
        if file.startswith(PROJECT_DIRECTORY):
            text = f"# {{% if cookiecutter.transcript %}}\n{text}# {{% endif %}}\n"
        lines = (fork / file).read_text(encoding="utf-8").splitlines(keepends=True)
        place = next(
            (i + 1 for i, line in enumerate(lines) if before and before in line), len(lines)
        )
        lines.insert(place, text)
        (fork / file).write_text("".join(lines), encoding="utf-8")
    _, printed = failures(fork)
    assert f"\n{len(TESTS)} passed" in printed, printed
