"""Bad answers are refused in one line, and nothing is left behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooks.pre_gen_project import first_problem, problem_of_slug, problem_of_text

from .process import environment, run

GOOD = {
    "project_name": "Support Chat",
    "project_slug": "support-chat",
    "description": "A chat for our support team.",
    "author_name": "Ada Lovelace",
}


Refusal = tuple[int, list[str]]
Run = Callable[..., Refusal]


@pytest.fixture
def cookiecutter(template: Path, tmp_path: Path) -> Run:
    """Return what runs the command and gives its exit code and the hook's errors."""
    home = tmp_path / "home"
    home.mkdir()

    def cookiecutter(output: Path, **answers: str) -> Refusal:
        given = [f"{name}={answer}" for name, answer in answers.items()]
        done = run(
            [sys.executable, "-m", "cookiecutter", template, "--no-input", "-o", output, *given],
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
    """Return an output directory, some levels deep in a place that nothing else uses."""
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
        ({"project_name": "two\nlines"}, "project_name: has U+000A at position 4, but must be"),
        ({"project_name": " ", "project_slug": "x"}, "project_name: is blank"),
        ({"description": "\x1b[31mred"}, "description: has U+001B at position 1, but must be"),
        ({"description": "x" * 201}, "description: has 201 characters, at most 200 are allowed"),
        ({"author_name": "\u202eadA"}, "author_name: has U+202E at position 1, but must be"),
    ],
)
def test_a_bad_answer_leaves_one_line_and_no_file(
    cookiecutter: Run, output: Path, answers: dict[str, str], message: str
) -> None:
    place = output.parent.parent
    code, errors = cookiecutter(output, **answers)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert "; right is, for example: " in errors[0]
    assert tree(place) == ["a", "a/b"]


def test_an_absolute_path_is_refused(cookiecutter: Run, output: Path, tmp_path: Path) -> None:
    code, errors = cookiecutter(output, project_slug=str(tmp_path / "made" / "evil"))
    assert code == 1
    assert errors == [
        "error: project_slug: is a path, not a name; right is, for example: support-chat"
    ]
    assert not (tmp_path / "made").exists()
    assert output.exists()


def test_what_was_there_before_stays(cookiecutter: Run, output: Path) -> None:
    (output / "notes").mkdir()
    (output / "notes" / "todo.txt").touch()
    code, _ = cookiecutter(output, project_slug="notes/evil")
    assert code == 1
    assert tree(output) == ["notes", "notes/todo.txt"]


@pytest.mark.parametrize("slug", ["", "."])
def test_a_slug_that_is_the_output_directory_is_refused(
    cookiecutter: Run, output: Path, slug: str
) -> None:
    # Cookiecutter refuses to write into what exists, before the hook can say a better word.
    code, errors = cookiecutter(output, project_slug=slug)
    assert (code, errors) == (1, [])
    assert tree(output) == []


@pytest.mark.parametrize(("slug", "problem"), [("", "is empty"), (".", "is a path, not a name")])
def test_a_slug_that_is_a_new_output_directory_is_refused(
    cookiecutter: Run, output: Path, slug: str, problem: str
) -> None:
    code, errors = cookiecutter(output / "new", project_slug=slug)
    assert code == 1
    assert errors == [f"error: project_slug: {problem}; right is, for example: support-chat"]
    assert tree(output) == []


def test_good_answers_pass() -> None:
    assert first_problem(GOOD) is None


@pytest.mark.parametrize("name", GOOD)
def test_the_first_bad_field_is_named(name: str) -> None:
    problem = first_problem(GOOD | {name: ""})
    assert problem is not None
    assert problem.startswith(f"{name}: is ")
    assert problem.endswith(f"; right is, for example: {GOOD[name]}")


@pytest.mark.parametrize(
    "slug", ["chat", "support-chat", "support_chat", "chat2", "chat-2", "a-b_c", "a" * 64, "con-1"]
)
def test_good_slugs(slug: str) -> None:
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
        *("class", "async", "con", "nul", "aux", "prn", "com1", "lpt9", "a" * 65, "\ud800"),
        *("{{x}}", "$(x)", "a;b", "a'b", 'a"b', "a%b", "a#b", "👋"),
    ],
)
def test_bad_slugs(slug: str) -> None:
    problem = problem_of_slug(slug)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *("x", "Ünïcödé", "Чат", "聊天室", "دردشة", "👩‍👩‍👧", "x" * 64, "🐍" * 64),
        *("'", '"', '"""', "'''", "\\", "a\\", "{{ x }}", "{% x %}", "{#", "#", "%", "<!--", "`"),
        "non\u00a0breaking",
    ],
)
def test_good_text(text: str) -> None:
    assert problem_of_text(text, 64) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\u3000", " x", "x ", "a\nb", "a\rb", "a\tb", "a\0b", "a\x1bb", "a\x7fb"),
        *("a\x85b", "a\u2028b", "a\u2029b", "a\u202eb", "a\u2066b", "a\ud800b", "x" * 65),
    ],
)
def test_bad_text(text: str) -> None:
    problem = problem_of_text(text, 64)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()


def test_a_user_s_configuration_is_checked_too(
    cookiecutter: Run, output: Path, tmp_path: Path
) -> None:
    defaults = {"default_context": {"author_name": "two\nlines"}}
    # JSON is YAML.
    (tmp_path / "home" / ".cookiecutterrc").write_text(json.dumps(defaults), encoding="utf-8")
    code, errors = cookiecutter(output)
    assert code == 1
    assert errors[0].startswith("error: author_name: has U+000A at position 4")
    assert tree(output) == []
