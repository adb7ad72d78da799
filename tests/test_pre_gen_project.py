"""Invalid answers are refused in one line, without leaving a file."""

import ast
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooks.pre_gen_project import (
    CHOICES,
    EXAMPLES,
    MIN_COOKIECUTTER,
    first_problem,
    main,
    problem_of_slug,
    problem_of_text,
)

from . import combination
from .combination import TEMPLATE
from .process import environment, run
from .venv import package_bin

GOOD = EXAMPLES | {name: choices[0] for name, choices in CHOICES.items()}
HOOKS = sorted((TEMPLATE / "hooks").glob("*.py"))


Refusal = tuple[int, list[str]]
Run = Callable[..., Refusal]


@pytest.fixture
def cookiecutter(template: Path, tmp_path: Path) -> Run:
    """Return a function that runs Cookiecutter and returns its status and the hook's errors."""
    home = tmp_path / "home"
    home.mkdir()

    def cookiecutter(
        output: Path, *arguments: str | Path, python: str | Path = sys.executable, **answers: str
    ) -> Refusal:
        given = [f"{name}={answer}" for name, answer in answers.items()]
        done = run(
            [
                *(python, "-m", "cookiecutter", template, "-o", output),
                *(arguments or ["--no-input"]),
                *given,
            ],
            tmp_path,
            env=environment(HOME=str(home), TMPDIR=str(home)),
        )
        lines = done.stderr.splitlines()
        return done.returncode, [line for line in lines if line.startswith("error: ")]

    return cookiecutter


def tree(root: Path) -> list[str]:
    """Return all files and directories."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output directory three levels below an unused one."""
    output = tmp_path / "place" / "a" / "b"
    output.mkdir(parents=True)
    return output


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"project_slug": "Support"}, "project_slug: has uppercase letters"),
        ({"project_slug": "3d-chat"}, "project_slug: starts with a digit"),
        ({"project_slug": "chät"}, "project_slug: has '\\xe4', which is not ASCII"),
        ({"project_slug": "class"}, "project_slug: is a keyword of Python"),
        ({"project_slug": "a" * 65}, "project_slug: has 65 characters, at most 64 are allowed"),
        ({"project_slug": "../evil"}, "project_slug: is a path, not a name"),
        ({"project_slug": "a/b/c"}, "project_slug: is a path, not a name"),
        ({"project_slug": "../../x/y"}, "project_slug: is a path, not a name"),
        ({"project_slug": "x/../y"}, "project_slug: is a path, not a name"),
        ({"project_slug": "redis"}, "project_slug: is the name of a package"),
        ({"project_slug": "typing_extensions"}, "project_slug: is the name of a package"),
        ({"project_name": "two\nlines"}, "project_name: has U+000A at position 4, but must be"),
        ({"project_name": " ", "project_slug": "x"}, "project_name: is blank"),
        ({"description": "\x1b[31mred"}, "description: has U+001B at position 1, but must be"),
        ({"description": "x" * 201}, "description: has 201 characters, at most 200 are allowed"),
        ({"author_name": "\u202eadA"}, "author_name: has U+202E at position 1, but must be"),
    ],
)
def test_a_bad_answer_prints_one_line_and_leaves_no_file(
    cookiecutter: Run, output: Path, answers: dict[str, str], message: str
) -> None:
    place = output.parent.parent
    code, errors = cookiecutter(output, **answers)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert "; for example: " in errors[0]
    assert tree(place) == ["a", "a/b"]


def test_an_absolute_path_is_refused(cookiecutter: Run, output: Path, tmp_path: Path) -> None:
    code, errors = cookiecutter(output, project_slug=str(tmp_path / "made" / "evil"))
    assert code == 1
    assert errors == ["error: project_slug: is a path, not a name; for example: support-chat"]
    assert not (tmp_path / "made").exists()
    assert output.exists()


def test_existing_files_are_kept(cookiecutter: Run, output: Path) -> None:
    (output / "notes").mkdir()
    (output / "notes" / "todo.txt").touch()
    code, _ = cookiecutter(output, project_slug="notes/evil")
    assert code == 1
    assert tree(output) == ["notes", "notes/todo.txt"]


@pytest.mark.parametrize("slug", ["", "."])
def test_a_slug_that_is_the_output_directory_is_refused(
    cookiecutter: Run, output: Path, slug: str
) -> None:
    # Cookiecutter refuses an existing directory before the hook runs.
    code, errors = cookiecutter(output, project_slug=slug)
    assert (code, errors) == (1, [])
    assert tree(output) == []


@pytest.mark.parametrize(("slug", "problem"), [("", "is empty"), (".", "is a path, not a name")])
def test_a_slug_that_is_a_new_output_directory_is_refused(
    cookiecutter: Run, output: Path, slug: str, problem: str
) -> None:
    code, errors = cookiecutter(output / "new", project_slug=slug)
    assert code == 1
    assert errors == [f"error: project_slug: {problem}; for example: support-chat"]
    assert tree(output) == []


def test_good_answers_pass() -> None:
    assert first_problem(GOOD) is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_first_bad_field_is_named(name: str) -> None:
    problem = first_problem(GOOD | {name: ""})
    assert problem is not None
    assert problem.startswith(f"{name}: is ")
    assert problem.endswith(f"; for example: {GOOD[name]}")


def test_the_hook_knows_every_question() -> None:
    choices = {name: set(answers) for name, answers in CHOICES.items()}
    asked = {name: set(answers) for name, answers in combination.CHOICES.items()}
    assert choices == asked, "CHOICES in hooks/pre_gen_project.py is not as cookiecutter.json asks"
    texts = {name for name in combination.QUESTIONS if not name.startswith("_")} - asked.keys()
    assert EXAMPLES.keys() == texts, "EXAMPLES in hooks/pre_gen_project.py: other questions"


NO_TEXTS = [None, 0, 1, 0.0, [], ["jwt"], {}, {"a": 1}, ["x" * 99]]
TEXTS = ["", "no", "False", "basic", "x" * 99]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        *((name, answer) for name in GOOD for answer in NO_TEXTS),
        *((name, answer) for name in CHOICES for answer in TEXTS),
    ],
    ids=str,
)
def test_an_answer_of_another_type_is_refused_in_one_line(name: str, answer: object) -> None:
    problem = first_problem(GOOD | {name: answer})
    assert problem is not None
    assert problem.startswith(f"{name}: is ")
    assert ", but must be " in problem
    assert problem.isprintable()
    assert len(problem) < 150


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_answer_is_refused(name: str) -> None:
    problem = first_problem({each: answer for each, answer in GOOD.items() if each != name})
    assert problem is not None
    assert problem.startswith(f"{name}: is missing")


def test_answers_without_cookiecutter_s_own_are_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^error: project_name: is missing; for example"):
        main({})


@pytest.mark.parametrize(
    "slug", ["chat", "support-chat", "support_chat", "chat2", "chat-2", "a-b_c", "a" * 64, "con-1"]
)
def test_good_slugs_are_accepted(slug: str) -> None:
    assert problem_of_slug(slug) is None


@pytest.mark.parametrize(
    "slug",
    [
        *("", " ", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "c:x", "~", "a.b"),
        *(
            "chat ",
            "chat\n",
            "a--b",
            "a-_b",
            "-a",
            "a-",
            "_a",
            "1a",
            "A",
            "aB",
            "\u017f",
            "\u0430",
            "\u0663",
        ),
        *("on", "no", "true", "null", "y"),
        *("class", "async", "con", "nul", "aux", "prn", "com1", "lpt9", "a" * 65, "\ud800"),
        *("{{x}}", "$(x)", "a;b", "a'b", 'a"b', "a%b", "a#b", "👋"),
    ],
)
def test_bad_slugs_are_refused(slug: str) -> None:
    problem = problem_of_slug(slug)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *("x", "Ünïcödé", "Чат", "聊天室", "دردشة", "👩‍👩‍👧", "x" * 64, "🐍" * 64),
        *("'", '"', '"""', "'''", "\\", "a\\", "{ { x } }", "}}", "#", "%", "<!--", "`"),
        "non\u00a0breaking",
    ],
)
def test_good_text_is_accepted(text: str) -> None:
    assert problem_of_text(text, 64) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\u3000", " x", "x ", "a\nb", "a\rb", "a\tb", "a\0b", "a\x1bb", "a\x7fb"),
        *("a\x85b", "a\u2028b", "a\u2029b", "a\u202eb", "a\u2066b", "a\ud800b", "x" * 65),
        *("{{ x }}", "a{{", "{% x %}", "{#", "//# if x"),
    ],
)
def test_bad_text_is_refused(text: str) -> None:
    problem = problem_of_text(text, 64)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"author_name": "two\nlines"}, "author_name: has U+000A at position 4"),
        ({"author_name": None}, "author_name: is null, but must be text"),
        ({"description": True}, "description: is true, but must be text"),
        ({"rooms": 0}, 'rooms: is "0", but must be yes or no'),
        ({"rooms": None}, "rooms: is null, but must be yes or no"),
        ({"redis": ["no"]}, 'redis: is "no", but must be yes or no'),
    ],
    ids=str,
)
def test_a_user_s_configuration_is_checked_too(
    cookiecutter: Run, output: Path, tmp_path: Path, answers: dict[str, object], message: str
) -> None:
    # JSON is YAML.
    configuration = json.dumps({"default_context": answers})
    (tmp_path / "home" / ".cookiecutterrc").write_text(configuration, encoding="utf-8")
    code, errors = cookiecutter(output)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert tree(output) == []


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"rooms": "no"}, 'rooms: is "no", but must be yes or no (true or false in a file)'),
        ({"auth": "basic"}, 'auth: is "basic", but must be one of jwt, ticket, session,'),
        ({"auth": None}, "auth: is null, but must be one of jwt,"),
        ({"author_name": 5}, "author_name: is 5, but must be text"),
        ({"description": "Shows {{ user }}."}, "description: has {{, which a later update would"),
    ],
    ids=str,
)
def test_a_replay_file_is_checked_too(
    cookiecutter: Run, output: Path, tmp_path: Path, answers: dict[str, object], message: str
) -> None:
    assert cookiecutter(output / "first") == (0, [])
    (recorded,) = (tmp_path / "home" / ".cookiecutter_replay").iterdir()
    context = json.loads(recorded.read_text(encoding="utf-8"))
    context["cookiecutter"] |= answers
    replay = tmp_path / "replay.json"
    replay.write_text(json.dumps(context), encoding="utf-8")
    code, errors = cookiecutter(output / "second", "--replay-file", replay)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert tree(output / "second") == []


def test_a_replay_file_needs_only_the_answers(
    cookiecutter: Run, output: Path, tmp_path: Path
) -> None:
    assert cookiecutter(output / "first") == (0, [])
    (recorded,) = (tmp_path / "home" / ".cookiecutter_replay").iterdir()
    answers = json.loads(recorded.read_text(encoding="utf-8"))["cookiecutter"]
    context = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    replay = tmp_path / "replay.json"
    replay.write_text(json.dumps({"cookiecutter": context | {"description": "Edited."}}))
    assert cookiecutter(output / "second", "--replay-file", replay) == (0, [])
    (project,) = (output / "second").iterdir()
    for file in ("README.md", "pyproject.toml"):
        assert "Edited." in (project / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["2.1.1", "2.6.0"])
def test_an_old_cookiecutter_is_refused(cookiecutter: Run, output: Path, version: str) -> None:
    python = package_bin(f"cookiecutter=={version}") / "python"
    code, errors = cookiecutter(output, python=python, rooms="no")
    assert code == 1
    assert errors == [
        'error: rooms: is "no", but must be yes or no (true or false in a file); Cookiecutter '
        f"{version} misreads such answers, use 2.7 or newer"
    ]
    assert tree(output) == []


def test_the_readme_names_the_oldest_cookiecutter() -> None:
    oldest = ".".join(map(str, MIN_COOKIECUTTER))
    assert f"Cookiecutter {oldest} or newer" in (TEMPLATE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", HOOKS, ids=lambda path: path.stem)
def test_hooks_are_python_3_8(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    # Annotations use newer syntax, which older versions must not evaluate.
    assert "\nfrom __future__ import annotations\n" in source


def old_pythons() -> list[str]:
    """Return the oldest Pythons on this machine that may run hooks, or else this one."""
    found = []
    for name in ("python3.8", "python3.9"):
        path = shutil.which(name)
        # It may be a shim for a version that is not installed.
        if path and run([path, "-c", ""], TEMPLATE).returncode == 0:
            found.append(path)
    return found or [sys.executable]


@pytest.mark.parametrize("python", old_pythons())
def test_hooks_run_with_an_old_python(template: Path, tmp_path: Path, python: str) -> None:
    (tmp_path / "mine.txt").touch()
    for name in ("pre_gen_project", "post_gen_project"):
        source = (template / "hooks" / f"{name}.py").read_text(encoding="utf-8")
        script = tmp_path / f"{name}.py"
        answers = GOOD | {"project_slug": "../x", "_output_dir": str(tmp_path)}
        script.write_text(source.replace("{{ cookiecutter | tojson }}", json.dumps(answers)))
        done = run([python, script], tmp_path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: "), done.stderr
