"""The project does not mention options that were not chosen."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.combination import OPTIONS
from tests.project import Project

# Words of each option in code, configuration, lock files and prose; case does not matter.
WORDS: dict[str, str] = {
    "rooms": r"room|presence|not_joined",
    "heartbeat": r"heartbeat|no_pong|\b4012\b",
    "redis": r"redis|valkey|sentinel|cluster|least_conn|\bnodes?\b(?!\.js)",
    "jwt": r"jwt|jwks|jws|\bbearer\.",
    "ticket": r"ticket",
    "session": r"session_|_session|sessionmiddleware|itsdangerous|(signed|session) cookie",
    "api_key": r"api[-_ ]?key(?!cookie|query)",  # so FastAPI calls cookies and tickets
    "none": r"guest|auth_none|credentials_none",
}

# An example for each option, to test the check.
EXAMPLES: dict[str, str] = {
    "rooms": "MAX_ROOMS",
    "heartbeat": "HeartbeatSettings",
    "redis": "hiredis==3.5.0",
    "jwt": "PyJWT",
    "ticket": "a ticket",
    "session": "itsdangerous>=2.2",
    "api_key": "X-API-Key",
    "none": "a guest",
}


@dataclass(frozen=True)
class Allowed:
    """Lines that may mention an option, and why."""

    option: str
    path: str
    line: str
    reason: str

    def covers(self, option: str, path: Path, line: str) -> bool:
        """Return whether this line is one of them."""
        return (
            option == self.option
            and path.match(self.path)
            and re.search(self.line, line) is not None
        )


WELCOME = "`welcome` always has the field `heartbeat`, null without"
API_KEY = "so OpenAPI and AsyncAPI call headers, cookies and queries with credentials"
NODES = "answers always have the field `nodes`, at most 1 for a single process"
RESYNC = "`resync` always has the field `room`, null for everywhere"

ALLOWED = [
    Allowed("api_key", "app/realtime/http/asyncapi.py", r'"httpApiKey"', API_KEY),
    Allowed("heartbeat", "app/realtime/endpoint/handshake.py", r"heartbeat=", WELCOME),
    Allowed("heartbeat", "app/realtime/protocol.py", r"HeartbeatTerms", WELCOME),
    Allowed("heartbeat", "tests/realtime/endpoint/test_endpoint.py", r"welcome\[", WELCOME),
    Allowed("heartbeat", "docs/protocol.md", r'[`"]heartbeat[`"]', WELCOME),
    Allowed("heartbeat", "app/realtime/client/client.js", r"\.heartbeat|HEARTBEAT", WELCOME),
    Allowed("heartbeat", "client/connection.py", r'\["heartbeat"\]|HEARTBEAT', WELCOME),
    Allowed("redis", "app/realtime/http/backend.py", r"\bnodes\b", NODES),
    Allowed("redis", "app/realtime/http/rooms.py", r"\bnodes\b", NODES),
    Allowed("redis", "docs/protocol.md", r"nodes", NODES),
    Allowed("redis", "tests/realtime/http/test_*.py", r'"nodes"', NODES),
    Allowed(
        "rooms", "app/realtime/redis/backplane.py", r"room: str \| None = None|in one room", RESYNC
    ),
    Allowed("rooms", "client/connection.py", r'"type": "resync"', RESYNC),
    Allowed("rooms", "docs/protocol.md", r'"type": "resync"', RESYNC),
    Allowed("rooms", "tests/realtime/redis/test_backplane.py", r'"type": "resync"', RESYNC),
]


def traces(project: Project) -> list[str]:
    """Return the lines that mention options which were not chosen."""
    found = []
    # Another test fails for an option without words.
    for option in sorted(WORDS.keys() & OPTIONS.difference(project.combination.options)):
        words = re.compile(WORDS[option], re.IGNORECASE)
        for path in project.files():
            if words.search(path.as_posix()):
                found.append(f"{path}: its name mentions {option}")
            found += [
                f"{path}:{number}: mentions {option}: {line.strip()}"
                for number, line in enumerate(project.read(path).splitlines(), start=1)
                if words.search(line)
                and not any(allowed.covers(option, path, line) for allowed in ALLOWED)
            ]
    return found


def check_traces(project: Project) -> None:
    """Search every line of every file."""
    found = traces(project)
    way_out = "WORDS and ALLOWED in tests/checks/traces.py decide which words mention an option"
    assert not found, "\n".join([*found, way_out])
