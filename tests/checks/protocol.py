"""`docs/protocol.md` says the same as the AsyncAPI document of the service."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import fastjsonschema

from tests.documents import blocks, tables
from tests.process import check_output
from tests.project import Project
from tests.venv import venv_bin

PROTOCOL = "docs/protocol.md"

PRINT = """
import json, os
from dev import fresh_secrets
os.environ.update(fresh_secrets())
from app.main import app
print(json.dumps(app.asyncapi("http://127.0.0.1:8000")))
"""

BY_CLIENTS = {"1000", "1001", "1005", "1006"}
"""Close codes that no server sends."""

Json = dict[str, Any]


def print_document(project: Project, program: str = PRINT) -> str:
    """Return the output of a program that imports the project's code."""
    # Without -B, Python would write files into a project that other checks share.
    return check_output([venv_bin(project) / "python", "-B", "-c", program], project.root)


class AsyncApi:
    """The AsyncAPI document of a service."""

    def __init__(self, document: str) -> None:
        self._document: Json = json.loads(document)
        self._schemas: Json = self._document["components"]["schemas"]
        self._channel: Json = self._document["channels"]["connection"]
        frames = [f"{side}Frame" for side in ("Client", "Server")]
        self._validators = {
            name: self._validator({"$ref": f"#/components/schemas/{name}"}) for name in frames
        } | {
            f"The reply to {self._type_of(name)}": self._reply_validator(operation)
            for name, operation in self._operations().items()
        }

    def _operations(self) -> Json:
        operations: Json = self._document["operations"]
        return {name: each for name, each in operations.items() if each["action"] == "receive"}

    def _type_of(self, name: str) -> str:
        kind: str = self._channel["messages"][name]["name"]
        return kind

    def _validator(self, root: Json) -> Callable[[Json], object]:
        validate: Callable[[Json], object] = fastjsonschema.compile(
            root | self._document,
            use_default=False,  # the frame stays as it is
        )
        return validate

    def _reply_validator(self, operation: Json) -> Callable[[Json], object]:
        """Return a validator that allows no more fields than a reply declares."""
        names = [each["$ref"].rpartition("/")[2] for each in operation["reply"]["messages"]]
        schemas = [self._schemas[name] | {"additionalProperties": False} for name in names]
        return self._validator({"anyOf": schemas})

    def validate(self, name: str, frame: Json) -> None:
        """Validate a frame as a ``ClientFrame``, ``ServerFrame`` or ``The reply to send``."""
        try:
            self._validators[name](frame)
        except fastjsonschema.JsonSchemaException as failure:
            msg = f"{name} in the AsyncAPI document does not allow {json.dumps(frame)}"
            raise AssertionError(msg) from failure

    def types(self) -> set[str]:
        """Return the ``type`` of every frame."""
        return {message["name"] for message in self._channel["messages"].values()}

    def commands(self) -> dict[str, str]:
        """Return the fields of each command, as the document shows them."""
        return {self._type_of(name): _fields(self._schemas[name]) for name in self._operations()}

    def error_codes(self) -> dict[str, str]:
        """Return whether to retry after each error."""
        codes = self._schemas["ErrorReply"]["properties"]["code"]["oneOf"]
        return {code["const"]: str(code["x-retry"]).lower() for code in codes}

    def close_codes(self) -> dict[str, str]:
        """Return a pattern of what a client does after each close code."""
        closes = self._channel["x-close-codes"].items()
        actions = {True: "reconnects.*", False: "does not reconnect.*"}
        return {code: actions[close["reconnect"]] for code, close in closes}

    def limits(self) -> dict[str, str]:
        """Return each limit, with a pattern for any meaning."""
        return dict.fromkeys(self._channel["x-limits"], ".+")

    def welcome(self) -> dict[str, str]:
        """Return each field of ``welcome``, with a pattern for any meaning."""
        return dict.fromkeys(self._schemas["Welcome"]["properties"].keys() - {"type"}, ".+")


def _fields(schema: Json) -> str:
    own = [name for name in schema["properties"] if name not in {"type", "id"}]
    marks = {name: "" if name in schema["required"] else r"\?" for name in own}
    return ", ".join(f"`{name}`{mark}" for name, mark in marks.items())


def check_protocol(project: Project, asyncapi: AsyncApi) -> None:
    """Compare tables and frames with the AsyncAPI document."""
    _check_table(project, "Commands", 1, asyncapi.commands())
    _check_table(project, "Errors", 2, asyncapi.error_codes())
    _check_table(
        project, "Close codes", 2, dict.fromkeys(BY_CLIENTS, ".+") | asyncapi.close_codes()
    )
    _check_table(project, "Limits", 1, asyncapi.limits())
    _check_table(project, "`welcome`", 1, asyncapi.welcome())
    text = project.read(PROTOCOL)
    missing = {name for name in asyncapi.types() if f'"type": "{name}"' not in text}
    assert not missing, f"{PROTOCOL}: no example has the types {sorted(missing)}"
    for block in blocks(project, "json"):
        try:
            asyncapi.validate("ServerFrame", json.loads(block.text))
        except AssertionError as failure:
            msg = f"{block.place}: {failure}"
            raise AssertionError(msg) from failure


def _check_table(project: Project, heading: str, column: int, told: Mapping[str, str]) -> None:
    """Compare the names in the first column, and the patterns with the cells in another."""
    rows = {
        name.strip("`"): cells[column]
        for cells in tables(project, PROTOCOL, heading)
        for name in cells[0].split(", ")
    }
    where = f"{PROTOCOL}: the table below {heading}"
    missing = sorted(told.keys() - rows.keys())
    assert not missing, f"{where} lacks {missing}"
    unknown = sorted(rows.keys() - told.keys())
    assert not unknown, f"{where} has {unknown}, unknown to the service"
    for name, pattern in told.items():
        cell = rows[name]
        assert re.fullmatch(pattern, cell), f"{where} says of {name} {cell!r}, not {pattern!r}"
