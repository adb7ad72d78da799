"""The service starts, its clients exchange messages, and it does what the documents say."""

import re

from tests.documents import blocks, documents, tables
from tests.project import Project

from .docs import OPERATING
from .exchanges import Exchange, is_exchange
from .protocol import AsyncApi, check_protocol
from .service import Client, Service, running


def check_conversation(project: Project) -> None:
    """Start it; let alice and bob exchange messages; compare it with the documents."""
    with running(project) as service:
        check_messages(project, service)
        asyncapi = AsyncApi(service.shell(f"curl --silent --fail {url(service)}/asyncapi.json"))
        check_protocol(project, asyncapi)
        for block in blocks(project, "text"):
            if is_exchange(block):
                Exchange(service, block, asyncapi).play()
        check_shell(project, service)
        check_metrics(project, service)


def url(service: Service) -> str:
    """Return where the service is."""
    return f"http://127.0.0.1:{service.port}"


def check_messages(project: Project, service: Service) -> None:
    """Let alice and bob exchange messages."""
    with service.client("alice") as alice:
        with service.client("bob") as bob:
            alice.ask(type="send", to=bob.user, data="to bob")
            _expect(bob, alice, "to bob", to="user")
            bob.ask(type="broadcast", data={"to": ["all", 1]})
            _expect(alice, bob, {"to": ["all", 1]}, to="all")
            if "rooms" in project.combination.options:
                alice.ask(type="join", room="square")
                bob.ask(type="join", room="square")
                alice.ask(type="publish", room="square", data="to the room")
                _expect(bob, alice, "to the room", room="square")
        alice.ask(type="broadcast", data="bob has left")


def _expect(reader: Client, sender: Client, data: object, **fields: str) -> None:
    message = reader.receive("message")
    expected = {"from": sender.user, "data": data} | fields
    got = {name: message.get(name) for name in expected}
    assert got == expected, f"expected {expected}, got {message}"


def check_shell(project: Project, service: Service) -> None:
    """Run each shell line and `make` command of the documents, in a harmless form."""
    for block in blocks(project, "sh"):
        if block.text.startswith("# .env.example"):
            continue
        script = block.text.replace("\\\n", " ")
        for line in filter(None, script.splitlines()):
            service.shell(_harmless(line.partition(" #")[0], service.port))
    for document in documents(project):
        for command in re.findall(r"`(make [a-z][^`]*)`", project.read(document)):
            service.shell(_harmless(command, service.port))


def _harmless(line: str, port: str) -> str:
    """Return a line that tests a command without its effects."""
    program = line.split()[0]
    if program == "make":
        return line.replace("make", "make --dry-run", 1)
    if program == "docker":
        return "test -f compose.yaml"
    if program == "kubectl":
        return "test -d deploy/kubernetes"  # tests/test_kubernetes.py reads the manifests
    if program == "curl":
        request = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        return ". ./.env; " + request.replace(
            "curl", "curl --silent --show-error --fail-with-body", 1
        )
    if program in {"pipx", "uv"}:
        return "true"  # tests/test_updates.py and tests/test_packaging.py run it
    assert program in {".", "python3"}, (
        f"_harmless in tests/checks/conversation.py has no test for this program: {line}"
    )
    return line


def check_metrics(project: Project, service: Service) -> None:
    """Check that a table documents each metric of the engine."""
    key = "Authorization: Bearer $METRICS_KEY"
    text = service.shell(f'. ./.env; curl --silent --fail -H "{key}" {url(service)}/metrics')
    documented = {
        word for cells in tables(project, OPERATING) for word in re.findall(r"ws_\w+", cells[0])
    }
    exported = set(re.findall(r"^# HELP (ws_\w+)", text, re.MULTILINE))
    missing = {name for name in exported - documented if not name.endswith("_created")}
    assert not missing, f"{OPERATING}: no table has the metrics {sorted(missing)}"
