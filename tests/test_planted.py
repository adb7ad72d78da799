"""A planted defect of each kind makes its check fail."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .checks import CHECKS, service, traces
from .checks.conversation import check_messages, check_metrics, check_shell
from .checks.protocol import AsyncApi, check_protocol, print_document
from .checks.service import Service, running
from .checks.text import text_problems
from .combination import DEFAULT, OPTIONS, find
from .conftest import Baker
from .project import Project

Plant = Callable[[Project], Project | None]


def adding(path: str, text: str) -> Plant:
    """Append text to a file, which may be new."""

    def plant(project: Project) -> None:
        before = project.read(path) if (project.root / path).exists() else ""
        project.write(path, before + text)

    return plant


def changing(path: str, pattern: str, replacement: str) -> Plant:
    """Replace the first match in a file."""

    def plant(project: Project) -> None:
        text, count = re.subn(pattern, replacement, project.read(path), count=1, flags=re.MULTILINE)
        assert count, f"{path} does not have {pattern}"
        project.write(path, text)

    return plant


def removing(path: str) -> Plant:
    """Remove a file."""
    return lambda project: (project.root / path).unlink()


def making_directory(path: str) -> Plant:
    """Make an empty directory."""
    return lambda project: (project.root / path).mkdir()


def understanding(name: str, answer: object) -> Plant:
    """Change an answer in Cookiecutter's context."""
    return lambda project: replace(project, context=dict(project.context) | {name: answer})


def with_tests(text: str) -> Plant:
    """Replace all tests."""

    def plant(project: Project) -> None:
        shutil.rmtree(project.root / "tests")
        (project.root / "tests").mkdir()
        project.write("tests/test_all.py", text)

    return plant


def serving(body: str) -> Plant:
    """Replace the service with one that sends `welcome` and runs these lines for each frame."""
    program = f"""\
import json
import os
import signal
from contextlib import suppress
from http import HTTPStatus
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

connections = []

def reply(connection, **frame):
    with suppress(ConnectionClosed):
        connection.send(json.dumps(frame))

def handle(connection):
    connections.append(connection)
    user = f"user-{{len(connections)}}"
    reply(connection, type="welcome", user=user)
    for text in connection:
        frame = json.loads(text)
        {body}

def ready(connection, request):
    if request.path == "/readyz":
        return connection.respond(HTTPStatus.OK, "")

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = serve(handle, "127.0.0.1", int(os.environ["PORT"]), process_request=ready)
print(f"listening port={{server.socket.getsockname()[1]}}", flush=True)
server.serve_forever()
"""
    return lambda project: project.write("app/__main__.py", program)


ACCEPT = 'reply(connection, type="ok", id=frame["id"]); '
DELIVER = (
    '[reply(each, **{"type": "message", "from": user, "to": to, "data": frame["data"]})'
    " for each in connections if each is not connection"
    ' for to in [{"send": "user", "broadcast": "all"}.get(frame["type"])] if to]; '
)
PUBLISH = (
    '[reply(each, **{"type": "message", "from": user, "room": "square", "data": frame["data"]})'
    ' for each in connections if each is not connection and frame["type"] == "publish"]; '
)

NO_ANSWER = "TimeoutError|timed out"

COMMAND = """

from typing import Literal
from .realtime import Command

class X(Command):
    type: Literal["x"]

@router.command(X)
async def x(service: Service, connection: Connection, command: X) -> None: ...
"""

FRAME = """

@dataclass(slots=True, kw_only=True)
class X(ServerFrame):
    type: Literal["x"] = "x"
"""

DEFECTS: dict[str, tuple[str, Plant, str]] = {
    "another choice": ("context", understanding("auth", "none"), "none"),
    "a choice that is no boolean": ("context", understanding("rooms", "True"), "True"),
    "a missing file": ("files", removing("app/realtime/jobs.py"), "missing: app/realtime/jobs.py"),
    "an unchosen file": ("files", adding("app/guest.py", "\n"), "not asked for: app/guest.py"),
    "a strange file": ("files", adding("app/x.orig", "\n"), "not asked for: app/x.orig"),
    "an empty directory": ("files", making_directory("x"), "empty directories: .*x"),
    "long tests": (
        "files",
        changing("tests/test_policy.py", r"\Z", "\n" * 6_000),
        "lines of tests",
    ),
    "a variable": ("jinja", adding("Makefile", "# {{ cookiecutter.auth }}\n"), "Jinja is left"),
    "an unused tag": ("jinja", adding("app/main.py", "# {% endif %}\n"), "Jinja is left"),
    "a comment": ("jinja", adding("compose.yaml", "# {# x #}\n"), "Jinja is left"),
    "no final newline": ("text", adding("Makefile", "# x"), "does not end with a newline"),
    "a blank line at the end": ("text", adding("app/main.py", "\n"), "ends with a blank line"),
    "trailing blanks": ("text", adding("pyproject.toml", "# x \n"), "has trailing blanks"),
    "CRLF": ("text", adding(".env.example", "# x\r\n"), "has a carriage return"),
    "a stray blank line": ("text", adding("compose.yaml", "\n\n# x\n"), "has a stray blank line"),
    "an empty file": ("text", adding("app/x.py", ""), "is empty"),
    "an undocumented command": (
        "protocol",
        adding("app/handlers.py", COMMAND),
        r"the table below Commands lacks \['x'\]",
    ),
    "an undocumented setting": (
        "docs",
        adding("app/realtime/fields.py", "\n\nclass X(SettingsPart):\n    max_x: int = 1\n"),
        r"\.env\.example: the settings \['MAX_X'\] are missing$",
    ),
    "an undocumented error code": (
        "protocol",
        adding("app/realtime/errors.py", '\n\nclass X(CommandError):\n    code = "x"\n'),
        r"the table below Errors lacks \['x'\]",
    ),
    "an undocumented close code": (
        "protocol",
        adding("app/realtime/protocol.py", 'X = Close(4999, "x")\n'),
        r"the table below Close codes lacks \['4999'\]",
    ),
    "a limit of which clients are not told": (
        "protocol",
        changing("app/realtime/endpoint/handshake.py", r"^ +\"burst_s.*\n", ""),
        r"the table below Limits has \['burst_s'\], unknown to the service",
    ),
    "a field that is not optional": (
        "protocol",
        changing(
            "docs/protocol.md", r"`data`, `echo`\? \| sends to everybody,", "`data`, `echo` |"
        ),
        r"the table below Commands says of broadcast '`data`, `echo`'",
    ),
    "an error that may be repeated": (
        "protocol",
        changing(
            "app/realtime/errors.py", r"(?s)(class Forbidden.*?code.*?)$", r"\1\n    retry = True"
        ),
        "the table below Errors says of forbidden 'false', not 'true'",
    ),
    "a close code after which clients reconnect": (
        "protocol",
        changing("app/realtime/protocol.py", r"Close\(4500", "Close(4499"),
        r"the table below Close codes lacks \['4499'\]",
    ),
    "a frame without an example": (
        "protocol",
        adding("app/realtime/protocol.py", FRAME),
        r"docs/protocol.md: no example has the types \['x'\]",
    ),
    "a frame that the schemas do not describe": (
        "service",
        changing("app/realtime/rooms/frames.py", r"^    offset: int \| None$", "    offset: str"),
        "ServerFrame in the AsyncAPI document does not allow",
    ),
    "an event that nothing logs": (
        "docs",
        changing("docs/operating.md", "`slow consumer`", "`slow reader`"),
        r"docs/operating.md: nothing logs the events \['slow reader'\]",
    ),
    "a warning without an explanation": (
        "docs",
        changing("app/realtime/jobs.py", r'"the service stops"', '"the end"'),
        r"docs/operating.md: no table has the events \['the end'\]",
    ),
    "a link to nothing": (
        "docs",
        adding("README.md", "[x](docs/x.md)\n"),
        "README.md: there is no docs/x.md",
    ),
    "a link to no heading": ("docs", adding("README.md", "[x](#no)\n"), "no heading for #no"),
    "a path to nothing": ("docs", adding("AGENTS.md", "`app/x.py`\n"), "AGENTS.md: no app/x.py"),
    "a long page": ("docs", adding("README.md", "x\n" * 150), "README.md has .* lines"),
    "a wide line": ("docs", adding("README.md", f"\n{'x' * 121}\n"), "README.md: lines .* 120 col"),
    "an unknown frame": (
        "service",
        adding("docs/protocol.md", '\n```json\n{"type": "x"}\n```\n'),
        r"docs/protocol.md:\d+: ServerFrame in the AsyncAPI document does not allow",
    ),
    "a reply that is not declared": (
        "service",
        changing("app/realtime/commands/messages.py", r"SendOk \| Future.*\]", "Ok | Future[Ok]"),
        "The reply to send in the AsyncAPI document does not allow .*reached",
    ),
    "an exchange with another answer": (
        "service",
        changing("docs/protocol.md", r'"recovered": true, "replayed": 1', '"recovered": null'),
        r"docs/protocol.md:\d+: alice gets .*true",
    ),
    "a frame that does not come": (
        "service",
        changing("docs/protocol.md", r'^> {"type": "pong"', '> {"type": "ping"'),
        r"docs/protocol.md:\d+: alice gets .*pong",
    ),
    "a frame that an exchange omits": (
        "service",
        changing("docs/protocol.md", r'^alice < {"type": "joined", "room": "den".*\n', ""),
        r"docs/protocol.md:\d+: alice gets .*joined.*, not .*pong",
    ),
    "a selection of no test": (
        "docs",
        changing("AGENTS.md", "-k welcomed", "-k announce"),
        "no test is selected by -k announce",
    ),
    "an example with a wrong type": (
        "docs",
        changing("docs/extending.md", r'title: str = "member"', "title: str = 1"),
        "Incompatible types",
    ),
    "an example without an import": (
        "docs",
        changing("docs/extending.md", r"^from .realtime import Unavailable\n\n", ""),
        r'sections/failures/handlers.py:\d+: error: Name "Unavailable"',
    ),
    "an example that does not say what it needs": (
        "docs",
        changing("docs/extending.md", r"This example\nneeds the connection state", "It is short"),
        r'sections/\w+/\w+.py:\d+: error: "State" has no attribute "title"',
    ),
    "an example in another format": (
        "docs",
        changing("docs/extending.md", r'title: str = "member"', "title: str = 'member'"),
        "example.py failed",
    ),
    "an example that does something else": (
        "docs",
        changing("docs/extending.md", "roll one to ten dice", "no"),
        "test_a_command_replies_and_refuses",
    ),
    "an example that breaks a test of the project": (
        "docs",
        changing("docs/extending.md", r'data in \("", None\)', "not isinstance(data, dict)"),
        "test_everybody_may_join_and_publish",
    ),
    "broken TOML": ("data", adding("pyproject.toml", "x = \n"), "pyproject.toml: "),
    "broken YAML": ("data", adding("compose.yaml", "a: b: c\n"), "compose.yaml: "),
    "broken JSON": ("data", adding("x.json", "{,}\n"), "x.json: "),
    "YAML without content": ("data", adding("x.yml", "# x\n"), "x.yml has no content"),
    "unformatted code": ("format", adding("app/policy.py", "x = {'a':1}\n"), "app/policy.py"),
    "an unused import": ("lint", adding("app/x.py", '"""X."""\n\nimport os\n'), "F401"),
    "a missing docstring": ("lint", adding("app/x.py", "X = 1\n"), "D100"),
    "a wrong type": ("types", adding("app/x.py", 'X: int = "x"\n'), "Incompatible types"),
    "a missing annotation": ("types", adding("app/x.py", "def f(x): ...\n"), "annotation"),
    "an upward import": (
        "imports",
        adding("app/realtime/protocol.py", "\nfrom ..main import create_app\n"),
        "app.realtime.protocol -> app.main",
    ),
    "no import contract": (
        "imports",
        changing(
            "pyproject.toml", r"(?s)^\[\[tool.importlinter.*?(?=^\[(?!\[tool.importlinter)|\Z)", ""
        ),
        "No contracts found",
    ),
    "an unused function": ("unused", adding("app/policy.py", "def helper(): ...\n"), "helper"),
    "a failing test": ("suite", with_tests("def test_one(): assert 1 == 2\n"), "its tests fail"),
    "a skipped test": (
        "suite",
        with_tests("import pytest\ndef test_one(): pytest.skip()\n"),
        "it skips tests",
    ),
    "an expected failure": (
        "suite",
        with_tests("import pytest\ndef test_one(): pytest.xfail()\n"),
        "it skips tests",
    ),
    "no tests": ("suite", with_tests(""), "its tests fail"),
    "a test file that does not load": (
        "suite",
        with_tests("x = y\ndef test_one(): pass\n"),
        "its tests fail",
    ),
    "a service that does not start": (
        "service",
        adding("app/settings.py", "\nraise SystemExit('broken')\n"),
        "broken",
    ),
    "a service that does not become ready": (
        "service",
        lambda project: project.write("app/__main__.py", "import time; time.sleep(60)\n"),
        "does not become ready",
    ),
    "a service that does not answer": ("service", serving("pass"), NO_ANSWER),
    "a service that refuses": (
        "service",
        serving('reply(connection, type="error", id=frame["id"])'),
        "is answered by .*error",
    ),
    "a service that does not deliver": ("service", serving(ACCEPT), NO_ANSWER),
    "a service that delivers other data": (
        "service",
        serving(ACCEPT + 'frame["data"] = 0; ' + DELIVER),
        "expected .*to bob.*, got",
    ),
    "a service without rooms": (
        "service",
        serving(ACCEPT + DELIVER),
        NO_ANSWER,
    ),
    "a service that does not end": (
        "service",
        changing(
            "app/__main__.py",
            r"^(if __name__.*)",
            r"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\1",
        ),
        "does not end",
    ),
    "a service that ends with an error": (
        "service",
        changing(
            "app/__main__.py", r"^    serve\(app\)", "    serve(app)\n    raise SystemExit(3)"
        ),
        "the service ends with 3",
    ),
    "a service that logs an error": (
        "service",
        changing("app/__main__.py", r"^    serve", "    print('Traceback', flush=True)\n    serve"),
        "the service logs an error",
    ),
}

DEFECTS_OF_DOCUMENTS: dict[str, tuple[str, Plant, str]] = {
    "an undocumented metric": (
        "metrics",
        changing("docs/operating.md", r"`ws_connections`", "`connections`"),
        r"docs/operating.md: no table has the metrics \['ws_connections'\]",
    ),
    "a command that make does not know": (
        "shell",
        adding("AGENTS.md", "\n```sh\nmake nothing\n```\n"),
        "make --dry-run nothing failed",
    ),
    "a request that is refused": (
        "shell",
        changing("docs/protocol.md", r"^(  -d '.\"user\")", r"\1: 1, \"x\""),
        "error: 422",
    ),
    "a program without a test": (
        "shell",
        adding("AGENTS.md", "\n```sh\nnothing\n```\n"),
        "has no test for this program: nothing",
    ),
}
"""The service has no defect, and runs once for all of these."""


PARTS = CHECKS | {
    "protocol": lambda project: check_protocol(project, AsyncApi(print_document(project)))
}
"""The checks, and a part of `service` that needs no service."""

PARTS_BESIDE_SERVICE = {"metrics": check_metrics, "shell": check_shell}
"""Other parts of `service`, which compare a running one with the documents."""

# Deadlines to shorten, for defects that make a check time out.
PATIENCE = {
    "does not become ready": "START_S",
    NO_ANSWER: "ANSWER_S",
    "does not end": "STOP_S",
}


@pytest.fixture
def project(baked: Baker, tmp_path: Path) -> Project:
    """Return a project that may be changed."""
    return baked(DEFAULT).copy(tmp_path / "project")


@pytest.mark.parametrize(("check", "plant", "complaint"), DEFECTS.values(), ids=DEFECTS)
def test_defect(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    plant: Plant,
    complaint: str,
) -> None:
    if complaint in PATIENCE:
        monkeypatch.setattr(service, PATIENCE[complaint], 1.0)
    defective = plant(project) or project
    with pytest.raises(AssertionError, match=complaint):
        PARTS[check](defective)


@pytest.fixture(scope="module")
def correct(baked: Baker) -> Iterator[Service]:
    """Run the service of a project without a defect."""
    with running(baked(DEFAULT)) as correct:
        yield correct


@pytest.mark.xdist_group("defects of documents")
@pytest.mark.parametrize(
    ("check", "plant", "complaint"), DEFECTS_OF_DOCUMENTS.values(), ids=DEFECTS_OF_DOCUMENTS
)
def test_defect_of_documents(
    project: Project, correct: Service, check: str, plant: Plant, complaint: str
) -> None:
    plant(project)
    with pytest.raises(AssertionError, match=complaint):
        PARTS_BESIDE_SERVICE[check](project, correct)


def test_a_minimal_service_passes(project: Project) -> None:
    serving(ACCEPT + DELIVER + PUBLISH)(project)
    with running(project) as minimal:
        check_messages(project, minimal)


def test_each_check_has_a_defect() -> None:
    assert {check for check, _, _ in DEFECTS.values()} | {"traces"} == set(PARTS)


def test_a_passing_test_passes(project: Project) -> None:
    with_tests("def test_one(): assert 1 == 1\n")(project)
    CHECKS["suite"](project)


@pytest.mark.parametrize(("option", "trace"), traces.EXAMPLES.items(), ids=traces.EXAMPLES)
@pytest.mark.parametrize("path", ["app/main.py", "requirements-dev.lock", "README.md"])
def test_trace(baked: Baker, tmp_path: Path, option: str, trace: str, path: str) -> None:
    without = find("jwt" if option == "none" else "none")
    project = baked(without).copy(tmp_path / "project")
    adding(path, f"# {trace}\n")(project)
    assert any(
        found.startswith(f"{path}:") and found.endswith(f"mentions {option}: # {trace}")
        for found in traces.traces(project)
    )


def test_a_file_name_is_a_trace(baked: Baker, tmp_path: Path) -> None:
    project = baked(find("none")).copy(tmp_path / "project")
    adding("app/redis_like.py", "X = 1\n")(project)
    with pytest.raises(AssertionError, match=r"app/redis_like.py: its name mentions redis"):
        CHECKS["traces"](project)


def test_each_option_has_trace_words() -> None:
    for name, table in {"WORDS": traces.WORDS, "EXAMPLES": traces.EXAMPLES}.items():
        where = f"{name} in tests/checks/traces.py"
        assert not OPTIONS - table.keys(), f"{where} lacks {OPTIONS - table.keys()}"
        assert not table.keys() - OPTIONS, f"{where} has {table.keys() - OPTIONS}, no option"


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_trace_words_match_their_example(option: str) -> None:
    words = re.compile(traces.WORDS.get(option, "$"), re.IGNORECASE)
    example = traces.EXAMPLES.get(option, "")
    where = "tests/checks/traces.py"
    assert words.search(example), f"{where}: WORDS of {option} do not match its EXAMPLES"


def test_allowed_traces_are_needed(baked: Baker) -> None:
    """Each entry must still allow something."""
    projects = [baked(DEFAULT), baked(find("ticket"))]
    for allowed in traces.ALLOWED:
        lines = [
            line
            for project in projects
            for path in project.files()
            if path.match(allowed.path)
            for line in project.read(path).splitlines()
        ]
        assert any(re.search(allowed.line, line) for line in lines), allowed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.py", "x = 1\n\n\ny = 2\n"),
        ("x.md", "# X\n\n```python\nx = 1\n\n\ny = 2\n```\n\nText.\n"),
        ("x.yml", "a: ${{ b }}\n\nc: d\n"),
    ],
)
def test_tidy_text(name: str, text: str) -> None:
    assert text_problems(Path(name), text) == []
