"""Objects within a command are as strict as it is, and errors repeat no text of the client's."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel
from pydantic import dataclasses as pydantic_dataclasses
from typing_extensions import TypedDict

from app.realtime import Command, CommandRouter, Connection, Service, StrictModel

from .client import Client
from .live import run_service

NOTE: JsonValue = {"type": "model"}
"""A value that looks like a part of pydantic's core schema."""


class Item(StrictModel):
    """A model within a command."""

    count: int
    weight: float = 0.0


@dataclass
class Box:
    """A standard dataclass within a command."""

    count: int
    weight: float = 0.0


class Bag(TypedDict, total=False):
    """A typed dictionary within a command."""

    count: int
    weight: float


class Card(StrictModel):
    """One of two kinds."""

    kind: Literal["card"]
    number: Annotated[str, Field(alias="no", max_length=4)]


class Cash(StrictModel):
    """The other kind."""

    kind: Literal["cash"]


class Tags(RootModel[list[int]]):
    """A model without fields."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Order(Command):
    """A command of the team."""

    type: Literal["order"]
    items: list[Item] | None = None
    boxes: list[Box] | None = None
    bags: list[Bag] | None = None
    pay: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    scores: dict[str, int] | None = None
    after: "Order | None" = None
    tags: Tags | None = None
    note: Annotated[JsonValue, Field(json_schema_extra={"type": "model"})] = NOTE


async def handle(service: Service, connection: Connection, command: Command) -> None:
    """Accept the command."""


def accepting(model: type[Command]) -> CommandRouter:
    """Return a router that accepts a command."""
    router = CommandRouter()
    router.command(model)(handle)
    return router


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with run_service(commands=accepting(Order)) as live:
        yield await live.connect()


@pytest.mark.parametrize("within", ["items", "boxes", "bags"])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ('{"count": "5"}', "count"),
        ('{"count": 5.5}', "count"),
        ('{"count": 5, "weight": NaN}', "weight"),
        ('{"count": 5, "SECRET": 1}', ""),
    ],
)
async def test_an_object_in_a_command_is_strict(
    client: Client, within: str, fields: str, field: str
) -> None:
    await client.send_text('{"type": "order", "id": "1", "' + within + '": [' + fields + "]}")
    error = await client.receive("error")
    assert error["code"] == "bad_request"
    assert error["message"].startswith(f"{within}.0.{field}" if field else f"{within}.0:")
    assert "SECRET" not in error["message"]


@pytest.mark.parametrize(
    ("field", "value", "location"),
    [
        ("scores", {"SECRET": "x"}, "scores: "),
        ("pay", {"kind": "SECRET"}, "pay: "),
        ("pay", {"kind": "card", "no": "SECRET"}, "pay.no: "),
        ("after", {"type": "order", "items": [{"SECRET": 1, "count": 1}]}, "after.items.0: "),
        ("tags", ["SECRET"], "tags.0: "),
        ("SECRET", 1, ""),
    ],
)
async def test_an_error_names_the_field_and_repeats_no_text_of_the_client(
    client: Client, field: str, value: object, location: str
) -> None:
    error = await client.ask(type="order", **{field: value})
    assert error["code"] == "bad_request"
    assert error["message"].startswith(location)
    assert "SECRET" not in error["message"]


class Plain(BaseModel):
    """A model that accepts "5" for a number."""

    count: int


@pydantic_dataclasses.dataclass
class PlainDataclass:
    """A dataclass of pydantic, which accepts the same."""

    count: int


class OrderOfPlain(Command):
    """A command with a plain model."""

    type: Literal["order"]
    items: list[Plain]


class OrderOfPlainDataclasses(Command):
    """A command with a dataclass of pydantic."""

    type: Literal["order"]
    items: dict[str, PlainDataclass | None]


class Lax(BaseModel):
    """A model that says that it is not strict."""

    model_config = ConfigDict(strict=False, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """A model that accepts unknown fields."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Infinite(BaseModel):
    """A model that accepts NaN."""

    model_config = ConfigDict(strict=True, extra="forbid")

    weight: float


class OpenDict(TypedDict):
    """A typed dictionary with a configuration of its own."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]


class InfiniteRoot(RootModel[float]):
    """A model without fields that accepts NaN."""

    model_config = ConfigDict(strict=True)


class PlainRoot(RootModel[int]):
    """A model without fields that accepts "5" for a number."""


class OrderOfDefaults(Command):
    """A command whose field is called as a key of a schema."""

    type: Literal["order"]
    default: Lax


def order_of(kind: object) -> type[Command]:
    """Return a command with an object of a class."""
    annotations = {"type": Literal["order"], "item": kind}
    return type("OrderOf", (Command,), {"__annotations__": annotations, "__module__": __name__})


LOOSE = 'strict=True, extra="forbid", allow_inf_nan=False'
"""What a class without a configuration lacks."""


@pytest.mark.parametrize(
    ("model", "name", "missing"),
    [
        (OrderOfPlain, "Plain", LOOSE),
        (OrderOfPlainDataclasses, "PlainDataclass", LOOSE),
        (OrderOfDefaults, "Lax", "strict=True"),
        (order_of(Lax), "Lax", "strict=True"),
        (order_of(Open), "Open", 'extra="forbid"'),
        (order_of(OpenDict), "OpenDict", 'extra="forbid", allow_inf_nan=False'),
        (order_of(Infinite), "Infinite", "allow_inf_nan=False"),
        (order_of(PlainRoot), "PlainRoot", "strict=True, allow_inf_nan=False"),
        (order_of(InfiniteRoot), "InfiniteRoot", "allow_inf_nan=False"),
    ],
)
async def test_a_class_that_is_not_strict_is_refused_at_start(
    model: type[Command], name: str, missing: str
) -> None:
    is_model = name not in {"OpenDict", "PlainDataclass"}
    attribute = "model_config" if is_model else "__pydantic_config__"
    can_derive = is_model and not name.endswith("Root")
    advice = ", or derive it from StrictModel" if can_derive else ""
    complaint = f"give it `{attribute} = ConfigDict({missing})`{advice}"
    with pytest.raises(TypeError, match=f"^{name} in .*: {re.escape(complaint)}$"):
        async with run_service(commands=accepting(model)):
            pass
