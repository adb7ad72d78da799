"""The examples of docs/extending.md do what the page says.

The template's check `docs` pastes them into a copy of a project, and runs this as one of its tests.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.main import app
from app.policy import Policy
from app.resources import Connection, Service, is_ready, remove_old_messages
from app.settings import Settings
from app.site import site

from .realtime.client import connect_options
from .realtime.live import Live, wait_until, wait_until_async

HAS_ROOMS = "max_rooms_per_connection" in Settings.model_fields
HAS_TOKENS = "jwt_secret" in Settings.model_fields


@pytest.fixture(autouse=True)
async def empty_database(service: Service) -> None:
    """Empty the database before the test."""
    for table in ("closed", "rights", "visits", "messages"):
        await service.resources.database.query(f"DELETE FROM {table}")  # noqa: S608 - no client's


async def query(live: Live, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Query the database of the running service."""
    rows: list[tuple[object, ...]] = await live.service.resources.database.query(statement, *values)
    return rows


async def test_a_command_replies_and_refuses(live: Live) -> None:
    alice = await live.connect("alice")
    reply = await alice.ask(type="roll", dice=2, id="1")
    assert reply.pop("total") in range(2, 13)
    assert reply == {"type": "ok", "id": "1"}
    refusal = await alice.ask(type="roll", dice=0)
    assert (refusal["code"], refusal["message"]) == ("bad_request", "roll one to ten dice")


async def test_an_object_in_a_command_is_checked_like_the_command(live: Live) -> None:
    alice = await live.connect("alice")
    assert (await alice.ask(type="roll_these", dice=[{"sides": 6}] * 2))["total"] in range(2, 13)
    for die in ({"sides": "6"}, {"sides": 6, "colour": "red"}):
        assert (await alice.ask(type="roll_these", dice=[die]))["code"] == "bad_request"


async def test_users_are_invited_and_the_absent_are_named(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    reply = await alice.ask(type="invite", users=[bob.user, "nobody"])
    assert reply["absent"] == ["nobody"]
    assert await bob.receive("invited") == {"type": "invited", "by": alice.user}


@pytest.mark.skipif("not HAS_ROOMS")
async def test_a_client_that_reloads_has_every_piece_of_the_answer_once(live: Live) -> None:
    alice, watcher = await live.connect("alice"), await live.connect("bob")
    for client in (alice, watcher):
        joined = await client.ask(type="join", room="lobby")
    assert (await alice.ask(type="ask", room="lobby", question="why"))["type"] == "ok"
    messages = [await alice.receive("message") for _ in range(20)]
    await alice.close()
    for _ in range(30):
        await watcher.receive("message")
    reloaded = await live.connect("alice")
    since = {"epoch": joined["epoch"], "offset": messages[-1]["offset"]}
    answer = await reloaded.ask(type="join", room="lobby", since=since)
    assert answer["recovered"] is True
    assert answer["replayed"] >= 10
    while not (message := await reloaded.receive("message"))["data"].get("end"):
        messages.append(message)
    assert [each["data"]["text"] for each in messages] == [f"why {n} " for n in range(60)]


@pytest.mark.skipif("not HAS_ROOMS")
async def test_a_failed_answer_does_not_end_others(
    live: Live, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await live.connect("alice")
    await alice.ask(type="join", room="lobby")
    with monkeypatch.context() as patch, capture_logs() as lines:
        await alice.ask(type="ask", room="lobby", question="first")
        await alice.receive("message")
        patch.setattr("app.resources.tokens", None)
        await alice.ask(type="ask", room="lobby", question="second")
        await wait_until(lambda: "answer failed" in [line["event"] for line in lines])
    while not (await alice.receive("message"))["data"].get("end"):
        pass


@pytest.mark.skipif("not HAS_ROOMS")
async def test_questions_that_cannot_wait_are_unavailable(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = asyncio.Event()

    async def slow_tokens(question: str) -> AsyncIterator[str]:
        await free.wait()
        yield question

    alice = await live.connect("alice")
    await alice.ask(type="join", room="lobby")
    ask = {"type": "ask", "room": "lobby", "question": "why"}
    with monkeypatch.context() as patch:
        patch.setattr("app.resources.tokens", slow_tokens)
        for _ in range(20 + 100):
            assert (await alice.ask(**ask))["type"] == "ok"
        refusal = await alice.ask(**ask)
        free.set()
        for _ in range(20 + 100):
            while not (await alice.receive("message"))["data"].get("end"):
                pass
    assert (refusal["code"], refusal["retry"]) == ("unavailable", True)


async def test_a_new_connection_is_greeted_and_its_visit_stored(live: Live) -> None:
    alice = await live.connect("alice")
    assert await alice.receive("notice") == {"type": "notice", "text": "hello, member"}
    await alice.close()

    async def is_noted() -> bool:
        return ("member",) in await query(live, "SELECT title FROM visits")

    await wait_until_async(is_noted)


async def test_a_title_to_which_the_service_is_closed_is_refused(live: Live) -> None:
    await query(live, "INSERT INTO closed VALUES ('member')")
    refused = await live.connect_with(await live.options("alice"), welcomed=False)
    assert (await refused.closed())[0] == 4500


async def test_a_failure_of_the_database_is_unavailable(
    live: Live, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError

    alice = await live.connect("alice")
    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(service.resources.database, "query", fail)
        refusal = await alice.ask(type="send", to=alice.user, data=1)
    assert (refusal["code"], refusal["retry"]) == ("unavailable", True)
    assert refusal["message"] == "the database does not answer"
    assert "handler failed" in [line["event"] for line in lines]


async def test_a_command_refuses_and_closes_with_codes_of_its_own(live: Live) -> None:
    alice = await live.connect("alice")
    assert (await alice.ask(type="buy", product="tea", count=1))["type"] == "ok"
    refusal = await alice.ask(type="buy", product="gold", count=1)
    assert (refusal["code"], refusal["retry"]) == ("sold_out", False)
    await alice.send(type="buy", product="tea", count=9_999)
    assert await alice.closed() == (4600, "suspended")


@pytest.mark.skipif("not HAS_ROOMS")
async def test_a_route_lists_the_users_in_a_room(live: Live) -> None:
    alice = await live.connect("alice")
    await alice.ask(type="join", room="lobby")
    assert (await live.get("/lobby")).json() == [alice.user]


@pytest.mark.skipif("not HAS_ROOMS")
async def test_the_policy_of_rooms_asks_the_database(live: Live) -> None:
    alice = await live.connect("alice")
    assert (await alice.ask(type="join", room="lobby"))["type"] == "ok"
    assert (await alice.ask(type="join", room="news"))["code"] == "forbidden"
    await query(live, "INSERT INTO rights VALUES ('member', 'news')")
    assert (await alice.ask(type="join", room="news"))["type"] == "ok"
    refusal = await alice.ask(type="publish", room="news", data={"text": "hi"})
    assert refusal["code"] == "forbidden"


@pytest.mark.skipif("HAS_ROOMS")
async def test_only_editors_may_send_to_the_news_desk(
    service: Service, connection: Connection
) -> None:
    for title, may in (("member", False), ("editor", True)):
        connection.state.title = title
        assert Policy().can_send(service, connection, "newsdesk") is may


@pytest.mark.skipif("HAS_ROOMS")
async def test_the_policy_asks_the_database(live: Live) -> None:
    alice = await live.connect("alice")
    assert (await alice.ask(type="broadcast", data=1))["code"] == "forbidden"
    await query(live, "INSERT INTO rights VALUES ('member', 'all')")
    assert (await alice.ask(type="broadcast", data=1))["type"] == "ok"


@pytest.mark.skipif("not HAS_ROOMS")
async def test_each_message_to_a_room_is_refused_cut_or_stored(live: Live) -> None:
    alice = await live.connect("alice")
    await alice.ask(type="join", room="lobby")
    assert (await alice.ask(type="publish", room="lobby", data=""))["code"] == "forbidden"
    long = "x" * 2000
    assert (await alice.ask(type="publish", room="lobby", data=long, echo=True))["type"] == "ok"
    assert (await alice.receive("message"))["data"] == long[:1000]
    assert (await alice.ask(type="publish", room="lobby", data="typing", keep=False))[
        "type"
    ] == "ok"
    taken = await live.post("/publish", {"room": "lobby", "data": {"text": "backend"}})
    refused = await live.post("/publish", {"room": "lobby", "data": None})
    assert (taken.status_code, refused.status_code) == (202, 403)
    stored = await query(live, "SELECT sender, body FROM messages")
    assert [(sender, json.loads(str(body))) for sender, body in stored] == [
        (alice.user, long[:1000]),
        (None, {"text": "backend"}),
    ]


@pytest.mark.skipif("not HAS_ROOMS")
async def test_a_stream_keeps_more_than_a_chat_and_has_no_presence(live: Live) -> None:
    alice = await live.connect("alice")
    for room, kept in (("stream:1", 250), ("chat:1", 200)):
        await query(live, "INSERT INTO rights VALUES ('member', ?)", room)
        await alice.ask(type="join", room=room)
        for number in range(250):
            await live.post("/publish", {"room": room, "data": {"text": str(number)}})
        await alice.ask(type="leave", room=room)
        assert (await alice.ask(type="join", room=room, last=1_000))["replayed"] == kept
        answer = await alice.ask(type="presence", room=room)
        assert (answer.get("code") == "forbidden") is (room == "stream:1")


@pytest.mark.skipif("not HAS_ROOMS")
async def test_the_policy_sets_the_title_and_an_editor_takes_others_out(live: Live) -> None:
    editor = await live.connect("alice")
    (connection,) = live.service.manager
    connection.state.title = "editor"
    other = await live.connect("bob")
    for client in (editor, other):
        await client.ask(type="join", room="lobby", info={"title": "king", "status": "away"})
    joined = await editor.receive("joined")
    assert joined["info"] == {"title": "member", "status": "away"}
    for client, code in ((other, "forbidden"), (editor, None)):
        answer = await client.ask(type="mute", room="lobby", user=other.user)
        assert answer.get("code") == code
    assert (await other.receive("evicted"))["reason"] == "muted by an editor"


async def test_the_job_removes_old_messages(service: Service) -> None:
    database = service.resources.database
    await database.query("INSERT INTO messages VALUES ('lobby', 'alice', '1', 0)")
    job = asyncio.create_task(remove_old_messages(service))

    async def is_removed() -> bool:
        return not await database.query("SELECT 1 FROM messages")

    await wait_until_async(is_removed)
    job.cancel()


async def test_the_service_is_ready_while_the_database_answers(
    live: Live, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(statement: str) -> None:
        raise sqlite3.OperationalError

    assert await is_ready(service)
    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(service.resources.database, "query", fail)
        assert (await live.get("/readyz")).status_code == 503
    assert "readiness check failed" in [line["event"] for line in lines]
    assert (await live.get("/readyz")).status_code == 200


async def test_the_metric_is_exported(live: Live) -> None:
    alice = await live.connect("alice")
    await alice.ask(type="ping")
    assert b'visits_total{title="member"}' in live.service.metrics.text()


async def test_log_lines_have_the_fields(live: Live) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        alice = await live.connect("alice")
        mine = alice.welcome["connection"]
        await alice.close()
        closed = {"event": "connection closed", "connection": mine}
        await wait_until(lambda: any(closed.items() <= line.items() for line in lines))
    events = {line["event"]: line for line in lines if line.get("connection") == mine}
    assert "title known" in events
    assert events["connection closed"]["title"] == "member"
    assert len(events["connection closed"]["request"]) == 16


async def test_the_replaced_send_stores_the_message(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    assert (await alice.ask(type="send", to=bob.user, data=1))["type"] == "ok"
    assert (await bob.receive("message"))["data"] == 1
    assert await query(live, "SELECT sender, body FROM messages") == [(alice.user, "1")]


async def test_a_site_has_the_service_below_a_path() -> None:
    with TestClient(site) as client:
        assert client.get("/realtime/readyz").json() == {"status": "ready"}
        anonymous = client.get("/online")
        assert anonymous.status_code in {200, 401}  # guests have no credentials
        if HAS_TOKENS:
            assert anonymous.status_code == 401
            options = await connect_options(app.service.settings, "alice")
            assert client.get("/online", headers=options.headers).json() is False


async def read_me(live: Live, **headers: str) -> httpx.Response:
    """Send the request of the example as alice."""
    options = await live.options("alice")
    url = options.uri.replace("ws://", "http://").replace("/ws", "/users/me")
    async with live.http() as http:
        return await http.get(url, headers=options.headers | headers)


async def test_the_route_is_for_users(live: Live) -> None:
    alice = await live.connect("alice")
    answer = (await read_me(live)).json()
    if alice.user == "alice":
        assert answer == {"user": "alice", "online": True}
        assert (await live.get("/users/me")).status_code == 401
    else:
        assert answer["user"].startswith("guest-")
        assert answer["user"] != alice.user
        assert answer["online"] is False


@pytest.mark.skipif("HAS_TOKENS")
async def test_crawlers_are_refused(live: Live) -> None:
    assert (await read_me(live, **{"User-Agent": "a crawler"})).status_code == 401


@pytest.mark.skipif("not HAS_TOKENS")
async def test_service_accounts_are_refused(live: Live) -> None:
    settings: Any = live.settings
    claims = {"sub": "printer", "exp": 2**32, "kind": "service"}
    jwt = pytest.importorskip("jwt")
    token = jwt.encode(claims, settings.jwt_secret.get_secret_value(), "HS256")
    async with live.http() as http:
        response = await http.get("/users/me", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 401
