"""A product built on the template: a chat with storage, permissions, typing, a route and a job.

It changes only the team's files.
"""

from pathlib import Path

from .checks.code import check_format, check_imports, check_lint, check_types
from .combination import DEFAULT, TEMPLATE
from .conftest import Baker
from .process import check_output
from .venv import venv_bin

CHAT = TEMPLATE / "examples" / "chat"


def test_a_chat_is_built_without_touching_the_engine(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    own = sorted(path.relative_to(CHAT) for path in CHAT.rglob("*.py"))
    assert not [path for path in own if "realtime" in path.parts]
    for path in own:
        project.write(path, (CHAT / path).read_text(encoding="utf-8"))
    for check in (check_format, check_lint, check_types, check_imports):
        check(project)
    tests = [path for path in own if path.match("tests/test_*.py")]
    check_output(
        [venv_bin(project) / "python", "-m", "pytest", "--quiet", *tests],
        project.root,
    )
