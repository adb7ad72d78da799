"""Bodies of requests over the size limit."""

from collections.abc import Awaitable, Callable

import pytest
from fastapi import Request, Response
from fastapi.middleware.cors import CORSMiddleware

from app.realtime.errors import PROBLEM_TYPE

from ..engine import make_app
from ..live import make_settings, run_app
from .test_backend import in_chunks, post_raw


@pytest.mark.parametrize("reads", [False, True])
async def test_with_middleware_a_large_body_is_refused_by_a_problem_too(reads: bool) -> None:
    app = make_app(make_settings(max_message_bytes=1_024))

    @app.middleware("http")
    async def pass_on(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if reads:
            await request.body()
        return await call_next(request)

    async with run_app(app) as live:
        body = b"x" * 2_000
        answers = [await post_raw(live, content) for content in (body, in_chunks(body))]
    for answer in answers:
        assert answer.headers["content-type"] == PROBLEM_TYPE
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_page_of_an_allowed_origin_can_read_the_refusal() -> None:
    app = make_app(make_settings(max_message_bytes=1_024))
    app.add_middleware(CORSMiddleware, allow_origins=["https://site.example"])
    async with run_app(app) as live, live.http() as http:
        answer = await http.post(
            "/publish", content=b"x" * 2_000, headers={"Origin": "https://site.example"}
        )
    assert answer.status_code == 413
    assert answer.headers["Access-Control-Allow-Origin"] == "https://site.example"
    assert "WWW-Authenticate" not in answer.headers
