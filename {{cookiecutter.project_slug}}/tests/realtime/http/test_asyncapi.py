"""The AsyncAPI document describes every frame of clients and of the server."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import Field

from app.realtime import (
    Close,
    Command,
    CommandError,
    CommandRouter,
    Connection,
    Ok,
    Rejected,
    ServerFrame,
    Service,
    StrictModel,
)
from app.realtime.endpoint.handshake import limits_of

from ..engine import make_app
from ..live import make_settings

Json = dict[str, Any]


class Circle(StrictModel):
    """A circle."""

    kind: Literal["circle"]
    radius: float


class Square(StrictModel):
    """A square."""

    kind: Literal["square"]
    side: float


class Draw(Command):
    """Draw a shape."""

    type: Literal["draw"]
    shape: Annotated[Circle | Square, Field(discriminator="kind")]


class Erase(Command):
    """Remove a shape."""

    type: Literal["erase", "wipe"]
    number: int = Field(ge=1)
    width: float = math.inf


@dataclass(slots=True, kw_only=True)
class DrawOk(Ok):
    """The shape was drawn."""

    number: int


@dataclass(slots=True, kw_only=True)
class Drawn(ServerFrame):
    """Somebody has drawn."""

    type: Literal["drawn"] = "drawn"
    number: int


class NoPaper(CommandError):
    """There is no paper left."""

    code = "no_paper"
    retry = True


class Ended(Rejected):
    """The game has ended."""

    close_as = Close(4555, "the game has ended")


def drawing() -> CommandRouter:
    """Return the commands of a team."""
    router = CommandRouter()

    @router.command(Draw)
    async def draw(service: Service, connection: Connection, command: Draw) -> DrawOk | None:
        """Draw it for everybody."""
        return DrawOk(number=1)

    @router.command(Erase)
    async def erase(service: "Absent", connection: Connection, command: Erase) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Erase it."""

    return router


def document(url: str = "http://localhost:8000") -> Json:
    """Return the document of a service with these commands."""
    return make_app(make_settings(), commands=drawing()).asyncapi(url)


def references(part: Any) -> Iterator[str]:
    """Yield all references in a part of a document."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def resolve(whole: Json, reference: str) -> Any:
    """Return the part of a document that a reference names."""
    part = whole
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


def messages_of(whole: Json, operation: Json) -> list[str]:
    """Return the names of the messages of an operation or a reply."""
    return [resolve(whole, each["$ref"])["name"] for each in operation["messages"]]


def replies_to(whole: Json, command: str) -> list[str]:
    """Return the names of the schemas of the replies to a command."""
    replies = whole["operations"][command]["reply"]["messages"]
    schemas = [resolve(whole, each["$ref"])["payload"]["$ref"] for each in replies]
    return [each.rpartition("/")[2] for each in schemas]


def test_all_references_resolve() -> None:
    whole = document()
    found = set(references(whole))
    assert found
    for reference in found:
        assert resolve(whole, reference) is not None


def test_every_registered_command_is_an_operation_with_its_replies() -> None:
    app = make_app(make_settings(), commands=drawing())
    whole = app.asyncapi("http://localhost")
    operations = whole["operations"]
    commands = [name for name, each in operations.items() if each["action"] == "receive"]
    assert commands == [model.__name__ for model in app._endpoint.router.handlers]
    assert messages_of(whole, operations["Draw"]) == ["draw"]
    assert operations["Draw"]["description"] == "Draw it for everybody."
    assert replies_to(whole, "Draw") == ["DrawOk", "Ok", "ErrorReply"]
    assert messages_of(whole, operations["Erase"]) == ["erase|wipe"]
    assert messages_of(whole, operations["Erase"]["reply"]) == ["ok", "error"]
    assert messages_of(whole, operations["Ping"]["reply"]) == ["pong", "error"]


def test_replies_of_built_in_commands_that_come_later_are_described() -> None:
    whole = document()
    assert replies_to(whole, "Send") == ["SendOk", "ErrorReply"]
    # {% if cookiecutter.rooms %}
    assert replies_to(whole, "Publish") == ["PublishOk", "ErrorReply"]
    # {% endif %}


def test_frames_codes_and_limits_of_the_engine_and_the_team_are_described() -> None:
    whole = document()
    sent = [name for name, each in whole["operations"].items() if each["action"] == "send"]
    assert {"Welcome", "DirectMessage", "Drawn"} <= set(sent)
    assert len(set(sent)) == len(sent)
    codes = whole["components"]["schemas"]["ErrorReply"]["properties"]["code"]["oneOf"]
    assert {"const": "no_paper", "description": "There is no paper left.", "x-retry": True} in codes
    channel = whole["channels"]["connection"]
    closes = channel["x-close-codes"]
    assert closes["4555"] == {"reason": "the game has ended", "reconnect": False}
    assert closes["4005"] == {"reason": "expired", "reconnect": True}
    assert [code for code, close in closes.items() if close["reconnect"] and code < "2"] == [
        *("1011", "1012", "1013")
    ]
    assert channel["x-limits"] == limits_of(make_settings())


def test_schemas_say_what_is_accepted_and_what_is_always_sent() -> None:
    schemas = document()["components"]["schemas"]
    assert {"$ref": "#/components/schemas/Draw"} in schemas["ClientFrame"]["anyOf"]
    assert {"$ref": "#/components/schemas/DrawOk"} in schemas["ServerFrame"]["anyOf"]
    assert schemas["Draw"]["required"] == ["type", "shape"]
    assert schemas["Draw"]["additionalProperties"] is False
    assert schemas["Draw"]["properties"]["shape"].keys() == {"oneOf"}
    assert schemas["DrawOk"]["required"] == ["type", "id", "number"]
    assert schemas["PongReply"]["required"] == ["type"]
    assert schemas["Erase"]["properties"]["width"] == {"type": "number"}  # JSON has no infinity
    assert {*schemas["DirectMessage"]["required"]} == {"type", "from", "data", "to"}


def test_the_document_names_the_server_that_was_asked() -> None:
    app = make_app(make_settings(environment="development"))
    site = FastAPI()
    site.mount("/realtime", app)
    client = TestClient(site, base_url="https://example.com")
    found = client.get("/realtime/asyncapi.json").json()
    server = found["servers"]["development"]
    assert (server["protocol"], server["host"]) == ("wss", "example.com")
    assert server["pathname"] + found["channels"]["connection"]["address"] == "/realtime/ws"
