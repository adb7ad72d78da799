"""Exception handlers passed to `Application` override those of the engine."""

import asyncio

import pytest
from fastapi import HTTPException as FastapiException
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from app.realtime import CommandError, Forbidden

from ..engine import make_app
from ..live import make_settings, run_app


async def answer(request: Request, failure: Exception) -> PlainTextResponse:
    """Answer as the team does."""
    return PlainTextResponse("the team", status_code=418)


async def fail(kind: str, number: int = 0) -> None:
    """Fail as the request wishes."""
    if kind.startswith("group "):
        async with asyncio.TaskGroup() as tasks:
            for each in kind.split()[1:]:
                tasks.create_task(fail(each))
    if kind == "os":
        raise OSError
    raise {"http": HTTPException(409), "command": Forbidden("no")}.get(kind, KeyError(kind))


@pytest.mark.parametrize(
    ("kinds", "status"),
    [("os", 503), ("command", 403), ("else", 500), ("os os", 500)],
)
async def test_the_one_failure_of_a_task_group_is_answered_as_itself(
    kinds: str, status: int
) -> None:
    app = make_app(make_settings())
    app.add_api_route("/fail/{kind}", fail)
    async with run_app(app) as live:
        assert (await live.get(f"/fail/group {kinds}")).status_code == status


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("sold out", "sold out"),
        ({"code": "sold_out"}, {"code": "sold_out"}),
        ([1, None], [1, None]),
        (None, "Conflict"),
        ("no file \udcff.db", "no file ?.db"),
        ({"\udcff": ["\udcff"]}, {"?": ["?"]}),
    ],
)
async def test_a_detail_may_be_any_json(detail: object, told: object) -> None:
    app = make_app(make_settings())

    @app.get("/own")
    async def own() -> None:
        raise FastapiException(409, detail)

    async with run_app(app) as live:
        answer = await live.get("/own")
    assert answer.status_code == 409
    assert answer.json()["detail"] == told


@pytest.mark.parametrize(
    ("handled", "path", "status"),
    [
        (HTTPException, "/fail/http", 409),
        (409, "/fail/http", 409),
        (HTTPException, "/nothing", 404),
        (RequestValidationError, "/fail/http?number=x", 422),
        (CommandError, "/fail/command", 403),
        (Exception, "/fail/else", 500),
        (500, "/fail/else", 500),
    ],
)
async def test_a_handler_of_the_team_answers(
    handled: int | type[Exception], path: str, status: int
) -> None:
    for handlers, expected in (({handled: answer}, 418), ({}, status)):
        app = make_app(make_settings(), exception_handlers=handlers)
        app.add_api_route("/fail/{kind}", fail)
        async with run_app(app) as live:
            assert (await live.get(path)).status_code == expected
