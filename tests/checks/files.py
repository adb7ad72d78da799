"""The project has exactly the files of the chosen options, and its tests are not too long."""

from pathlib import Path

from hooks.post_gen_project import NOT_WITH, UNFINISHED
from tests.combination import OPTIONS, TEMPLATE
from tests.project import PROJECT_DIRECTORY, WORKING_FILES, Project

# A file belongs to the options in its path (`redis/test_tickets.py`), except these.
EXCEPTIONS: dict[str, set[str]] = {
    "app/realtime/auth/guest.py": {"none"},
    "app/realtime/auth/jwks.py": {"jwt"},
    "app/realtime/commands/refresh.py": {"jwt"},
    "app/realtime/http/login.py": {"session"},
    "app/realtime/http/page/answer.js": {"rooms"},
    "app/realtime/http/page/nodes.js": {"redis"},
    "app/realtime/http/tickets.py": {"ticket"},
    "app/realtime/http/tokens.py": {"jwt"},
    "app/realtime/server/workers.py": {"redis"},
    "deploy/kubernetes/scaling.yaml": {"redis"},
    "dev/nodes.py": {"redis"},
    "tests/realtime/auth/test_guest.py": {"none"},
    "tests/realtime/http/test_login.py": {"session"},
    "tests/realtime/http/test_tokens.py": {"jwt"},
    "tests/realtime/redis/test_tickets.py": {"ticket", "redis"},
}


MAX_TEST_LINES = 6_000
"""Lines of a project's tests. Those of the engine's inner parts belong to the proof."""


def needed_options(path: Path) -> set[str]:
    """Return the options that a file of the template belongs to."""
    words = "_".join(["", *path.with_suffix("").parts, ""])
    return EXCEPTIONS.get(path.as_posix()) or {
        option for option in OPTIONS if f"_{option}_" in words
    }


def template_files(template: Path = TEMPLATE) -> list[Path]:
    """Return the files of the project with every option, relative to it."""
    root = template / PROJECT_DIRECTORY
    paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    ignored = (*WORKING_FILES, UNFINISHED)
    return sorted(
        path
        for path in paths
        if not any(part.match(name) for part in map(Path, path.parts) for name in ignored)
    )


def check_files(project: Project) -> None:
    """Compare with the template's files and the options in their names."""
    chosen = set(project.combination.options)
    everything = template_files(project.template)
    useless = {path for option in chosen for path in NOT_WITH.get(option, ())}
    expected = {path for path in everything if needed_options(path) <= chosen}
    expected -= {Path(path) for path in useless}
    found = set(project.files())
    missing = ", ".join(map(str, sorted(expected - found)))
    extra = ", ".join(map(str, sorted(found - expected)))
    assert not missing, f"missing: {missing}"
    assert not extra, f"not asked for: {extra}"
    empty = [path for path in project.root.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty, f"empty directories: {', '.join(map(str, empty))}"
    tests = [project.read(str(path)) for path in found if path.parts[0] == "tests"]
    lines = sum(len(text.splitlines()) for text in tests)
    assert lines <= MAX_TEST_LINES, f"{lines} lines of tests, at most {MAX_TEST_LINES} are allowed"
