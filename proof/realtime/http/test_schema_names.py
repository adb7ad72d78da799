"""Names of schemas in the AsyncAPI document, and the schemas of replies."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import TypeAliasType

from app.realtime import Command, CommandRouter, Connection, Data, Ok, ServerFrame, Service
from app.realtime.http.asyncapi import _named_in

from ..engine import make_app
from ..live import make_settings


class ClientFrame(Command):
    """A command with the name of the schema of all commands."""

    type: TypeAliasType("FrameType", Literal["frame", "page"])  # type: ignore[valid-type]
    data: Data = None


async def test_a_command_may_have_the_name_of_the_schema_of_all() -> None:
    router = CommandRouter()

    @router.command(ClientFrame)
    async def frame(service: Service, connection: Connection, command: ClientFrame) -> None: ...

    document = make_app(make_settings(), commands=router).asyncapi("http://localhost")
    schemas = document["components"]["schemas"]
    names = {each["$ref"].rpartition("/")[2] for each in schemas["ClientFrame.Any"]["anyOf"]}
    assert {"ClientFrame", "Ping"} <= names
    assert "default" not in schemas["ClientFrame"]["properties"]["data"]  # any JSON is no type
    messages = document["channels"]["connection"]["messages"]
    names_of_types = [messages[each]["name"] for each in ("ClientFrame", "Note", "Vote")]
    assert names_of_types == ["frame|page", "note", "up|down"]


Item = TypeVar("Item")


@dataclass(slots=True, kw_only=True)
class Note(ServerFrame):
    """A frame whose type is any text."""

    type: str = "note"


@dataclass(slots=True, kw_only=True)
class Vote(ServerFrame):
    """A frame of two types."""

    type: Literal["up", "down"] = "up"


@dataclass(slots=True, kw_only=True)
class PageOk(Ok, Generic[Item]):
    """A page of items."""

    items: list[Item]


async def test_a_reply_may_be_generic_and_a_handler_partial() -> None:
    async def read(size: int, *_: object) -> PageOk[int]:
        """Read a page."""
        return PageOk(items=list(range(size)))

    router = CommandRouter()
    router.command(ClientFrame)(partial(read, 3))
    document = make_app(make_settings(), commands=router).asyncapi("http://localhost")
    operation = document["operations"]["ClientFrame"]
    assert operation["description"] == "Read a page."
    replies = [each["$ref"].rpartition("/")[2] for each in operation["reply"]["messages"]]
    assert replies == ["PageOk", "ErrorReply"]
    assert "items" in document["components"]["schemas"]["PageOk"]["properties"]


Answer = TypeAliasType("Answer", PageOk[int] | Ok)


async def test_the_replies_may_have_an_alias() -> None:
    async def read(*_: object) -> Answer:
        return Ok()

    router = CommandRouter()
    router.command(ClientFrame)(read)
    document = make_app(make_settings(), commands=router).asyncapi("http://localhost")
    replies = document["operations"]["ClientFrame"]["reply"]["messages"]
    names = [each["$ref"].rpartition("/")[2] for each in replies]
    assert names == ["PageOk", "Ok", "ErrorReply"]


class Alias:
    """As `type Json = list[Json]` makes one (PEP 695), which Python 3.11 cannot."""

    __value__: Any


def test_an_alias_may_be_recursive() -> None:
    alias = Alias()
    alias.__value__ = list[alias]  # type: ignore[valid-type]
    assert list(_named_in(alias)) == [list]
