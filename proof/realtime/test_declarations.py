"""What a team declares is checked when it is declared, not when a client comes."""

from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import AliasChoices, AliasPath, Field
from structlog.testing import capture_logs
from typing_extensions import TypeAliasType

from app.realtime import (
    Close,
    Command,
    CommandError,
    CommandRouter,
    Connection,
    Rejected,
    ServerFrame,
    Service,
)

from .engine import make_app
from .live import make_settings, run_service

LONGEST = "é" * 61 + "x"


async def begin(service: Service, connection: Connection) -> None:
    """Begin a connection."""


class Tell(Command):
    """A command of two types, one of them that of a built-in command."""

    type: TypeAliasType(  # type: ignore[valid-type]
        "Outer", TypeAliasType("Inner", Annotated[Literal["send"] | Literal["tell"], "both"])
    )
    words: int = Field(validation_alias=AliasChoices("words", AliasPath("a", "b")))


async def test_a_command_of_two_types_is_counted_by_type_and_replaces_a_built_in_command() -> None:
    router = CommandRouter()

    @router.command(Tell)
    async def tell(service: Service, connection: Connection, command: Tell) -> None: ...

    async with run_service(commands=router) as live:
        client, before = await live.connect(), live.counts()
        for name in ("send", "tell", "tell"):
            assert (await client.ask(type=name, words=1))["type"] == "ok"
        for surplus in ({}, {"a": {"b": "many"}}):
            error = await client.ask(type="tell", **surplus)
            assert error["message"].startswith(("words: Field required", "a.b: Input"))
        counts = live.counts() - before
    assert (counts["ws_commands_total send"], counts["ws_commands_total tell"]) == (1, 2)


class RefusedType(Command):
    """A command of the type under which metrics count invalid frames."""

    type: Literal["refused"]


async def test_a_command_has_no_type_that_metrics_use() -> None:
    router = CommandRouter()

    @router.command(RefusedType)
    async def handle(service: Service, connection: Connection, command: RefusedType) -> None: ...

    with pytest.raises(ValueError, match="'refused'"):
        make_app(make_settings(), commands=router)


async def test_a_second_function_for_new_connections_is_refused() -> None:
    router, other = CommandRouter(), CommandRouter()
    router.connecting(begin)
    other.connecting(begin)
    with pytest.raises(ValueError, match="is registered already"):
        router.connecting(begin)
    with pytest.raises(ValueError, match="is registered already"):
        router.include(other)


@pytest.mark.parametrize("code", [None, 7, b"sold_out"])
def test_an_error_code_is_text(code: Any) -> None:
    with pytest.raises(TypeError, match="SoldOut: code must be a str"):
        type("SoldOut", (CommandError,), {"code": code})


@pytest.mark.parametrize(
    "close",
    [
        None,
        (4600, "suspended"),
        Close(1000, "bye"),
        Close(1005, "none"),
        Close(3999, "low"),
        Close(5000, "high"),
        Close(4600, LONGEST + "x"),
        Close(4600, "\ud800"),
        Close(4600, cast(str, None)),
        Close(cast(int, "4600"), "text"),
    ],
)
def test_a_close_that_cannot_be_sent_is_refused(close: Any) -> None:
    with pytest.raises(TypeError, match="Suspended: close_as must be a Close"):
        type("Suspended", (Rejected,), {"close_as": close})


def test_a_close_that_can_be_sent_is_accepted() -> None:
    for close in (Close(4000, ""), Close(4999, LONGEST)):
        type("Suspended", (Rejected,), {"close_as": close})


@pytest.mark.parametrize("base", [CommandError, Rejected, ServerFrame])
def test_a_declaration_may_have_a_base_with_options(base: type) -> None:
    class Tagged:
        tag = ""

        def __init_subclass__(cls, *, tag: str = "", **options: Any) -> None:
            super().__init_subclass__(**options)
            cls.tag = tag

    for bases in ((base, Tagged), (Tagged, base)):
        namespace = {"code": "own", "close_as": Close(4600, "own")}
        assert vars(type("Own", bases, namespace, tag="shop"))["tag"] == "shop"


class ShopError(CommandError):
    """A base of errors, without a code."""


class OutOfShop(Rejected):
    """A base of rejections, without a close."""


class Buy(Command):
    """A command whose handler raises."""

    type: Literal["buy"]
    failure: int


BASES: list[type[Exception]] = [CommandError, ShopError, Rejected, OutOfShop]


async def test_a_base_that_is_raised_gets_the_one_answer() -> None:
    router = CommandRouter()

    @router.command(Buy)
    async def buy(service: Service, connection: Connection, command: Buy) -> None:
        raise BASES[command.failure]

    async with run_service(commands=router) as live:
        client = await live.connect()
        for number, base in enumerate(BASES):
            with capture_logs() as lines:
                assert (await client.ask(type="buy", failure=number))["code"] == "internal"
            failures = [line["exc_info"] for line in lines if line["event"] == "handler failed"]
            assert [str(each) for each in failures] == [
                f"{base.__name__} has no {'code' if number < 2 else 'close_as'}:"
                " raise a subclass that has one"
            ]
            assert await client.is_quiet()
