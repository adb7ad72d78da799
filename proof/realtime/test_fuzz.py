"""Fuzzing: a running service gives only documented answers to random input, and stays up.

Hypothesis generates the same input in every run; `make prove LONG=1` generates more, at random.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import to_json
from structlog.testing import capture_logs

from app.realtime.errors import PROBLEM_TYPE, CommandError, InternalError
from app.realtime.protocol import Command, ServerFrame
from app.realtime.server.logging import is_worth_logging

from .client import Client, Frame
from .live import BACKEND, Live, make_settings, run_service, wait_until, wait_until_async
from .raw_client import (
    CLOSE,
    FIN,
    PONG,
    TEXT,
    RawClient,
    handshake,
    masked,
    raw_client,
    raw_connection,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
FUZZ = settings(
    max_examples=EXAMPLES or 50, derandomize=not EXAMPLES, deadline=None, print_blob=True
)

STATUSES = {101, 400, 403, 404, 405, 408, 413, 414, 426, 431}


@pytest.fixture(scope="module")
async def live() -> AsyncIterator[Live]:
    """Run a service with a short close timeout."""
    async with run_service(make_settings(close_timeout_s=0.1)) as live:
        yield live


@pytest.fixture(scope="module")
async def short_timeout_service() -> AsyncIterator[Live]:
    """Run a service with a short request timeout."""
    async with run_service(make_settings(handshake_timeout_s=0.25)) as live:
        yield live


class ErrorRecords(logging.Handler):
    """Collects the errors that libraries log, except those that `is_worth_logging` drops."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.addFilter(is_worth_logging)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.messages.append(record.getMessage())


@contextmanager
def no_errors_logged() -> Iterator[None]:
    """Assert that neither the service nor a library logs an error."""
    records = ErrorRecords()
    logging.getLogger().addHandler(records)
    try:
        with capture_logs() as lines:
            yield
    finally:
        logging.getLogger().removeHandler(records)
    assert records.messages == []
    assert [line for line in lines if line["log_level"] in {"error", "critical"}] == []


def subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """Yield the service's subclasses of a class, at any depth."""
    for each in base.__subclasses__():
        if each.__module__.startswith("app."):
            yield each
        yield from subclasses(each)


COMMANDS = [model for model in subclasses(Command) if model.model_fields["type"].is_required()]
ERRORS = {each.code for each in subclasses(CommandError)}
ANSWERS = {each.__dataclass_fields__["type"].default for each in subclasses(ServerFrame)}

NAMES = st.sampled_from(["alice", "bob", "lobby", "x"])
TEXTS = st.text(max_size=70)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXTS,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(TEXTS, value, max_size=3),
    max_leaves=8,
)
SCALARS: dict[object, st.SearchStrategy[Any]] = {
    str: NAMES,
    bool: st.booleans(),
    int: st.integers(0, 9),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a field, by its annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Annotated:
        return values(arguments[0])
    if origin in {Union, UnionType} and NoneType in arguments:
        return st.one_of([values(each) for each in arguments if each is not NoneType])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return instances(annotation)
    if is_dataclass(annotation):
        return st.fixed_dictionaries({each.name: values(each.type) for each in fields(annotation)})
    return SCALARS.get(annotation, JSON)


def instances(model: type[BaseModel]) -> st.SearchStrategy[Frame]:
    """Return a strategy for the valid instances of a model."""
    allowed = {name: values(field.annotation) for name, field in model.model_fields.items()}
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    return st.fixed_dictionaries(
        {name: allowed[name] for name in allowed if name in required},
        optional={name: allowed[name] for name in allowed if name not in required},
    )


VALID = st.one_of([instances(model) for model in COMMANDS]).filter(
    lambda frame: (
        not ("since" in frame and frame.get("last")) and len(to_json(frame.get("info"))) <= 1_024
    )
)
FIELDS = sorted({name for model in COMMANDS for name in model.model_fields})
ODD_VALUES = JSON | st.sampled_from([float("nan"), float("-inf"), 10**4_000, "\ud800", "x" * 200])
ALMOST_VALID = st.builds(
    lambda frame, changes: frame | changes,
    VALID,
    st.dictionaries(st.sampled_from([*FIELDS, "surplus"]), ODD_VALUES, max_size=2),
)


@dataclass
class Corruption:
    """Deletes or duplicates a slice of the data, and inserts other bytes after it."""

    at: int
    size: int
    copies: int
    inserted: bytes

    def apply(self, data: bytes) -> bytes:
        """Return the corrupted data."""
        begin = self.at % (len(data) + 1)
        end = begin + self.size
        return data[:begin] + self.copies * data[begin:end] + self.inserted + data[end:]


CORRUPTIONS = st.lists(
    st.builds(
        Corruption,
        st.integers(0, 1_000),
        st.integers(0, 1_000),
        st.sampled_from([0, 0, 2]),
        st.binary(max_size=9),
    ),
    max_size=3,
)


def corrupted(data: bytes, corruptions: Sequence[Corruption]) -> bytes:
    """Return the data after all corruptions."""
    for corruption in corruptions:
        data = corruption.apply(data)
    return data


@asynccontextmanager
async def connected(live: Live) -> AsyncIterator[Client]:
    """Connect; nothing may log an error until the end."""
    with no_errors_logged():
        try:
            yield await live.connect()
        finally:
            await live.close_clients()


async def replies_to(client: Client, text: str) -> list[Frame]:
    """Send a text, and return the replies to it."""
    await client.send_text(text)
    await client.send(type="ping", id="end of example")
    frames: list[Frame] = []
    while (frame := await client.receive()) != {"type": "pong", "id": "end of example"}:
        assert frame["type"] in ANSWERS
        if frame["type"] in {"ok", "error", "pong"}:
            frames.append(frame)
    return frames


@FUZZ
@given(frames=st.lists(VALID, min_size=1, max_size=9))
async def test_valid_commands_are_accepted(live: Live, frames: Sequence[Frame]) -> None:
    async with connected(live) as client:
        for frame in frames:
            replies = await replies_to(client, json.dumps(frame))
            errors = [reply for reply in replies if reply["type"] == "error"]
            codes = {each["code"] for each in errors if not each["message"].startswith("key: ")}
            assert codes <= ERRORS - {"bad_request", "unknown_type", InternalError.code}
            if "id" in frame:
                assert [reply["id"] for reply in replies] == [frame["id"]]


@FUZZ
@given(texts=st.lists(ALMOST_VALID.map(json.dumps) | TEXTS, min_size=1, max_size=9))
async def test_almost_valid_commands_get_at_most_one_reply(
    live: Live, texts: Sequence[str]
) -> None:
    async with connected(live) as client:
        for text in texts:
            replies = await replies_to(client, text)
            assert len(replies) <= 1
            for reply in replies:
                assert reply["type"] != "error" or reply["code"] in ERRORS - {InternalError.code}


FRAMES = st.builds(
    masked,
    VALID.map(json.dumps).map(str.encode) | st.binary(max_size=130),
    st.sampled_from([*5 * [TEXT], *range(16)]),
    fin=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([*9 * [0], 1, 2, 4]),
)
STREAMS = st.builds(corrupted, st.lists(FRAMES, max_size=9).map(b"".join), CORRUPTIONS)


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield opcodes and payloads of frames, which must be complete, unmasked and unfragmented."""
    while data:
        assert data[0] & 0xF0 == FIN
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        assert size < 65_536
        yield data[0] ^ FIN, data[start : start + size]
        assert len(data) >= start + size
        data = data[start + size :]


@FUZZ
@given(stream=STREAMS)
@example(stream=b"")
async def test_corrupted_frames_get_documented_answers(live: Live, stream: bytes) -> None:
    with no_errors_logged():
        async with raw_client(await live.options()) as client:
            await client.upgraded()
            client.send(stream)
            client.send_eof()
            opcodes = []
            for opcode, payload in server_frames(await client.rest()):
                opcodes.append(opcode)
                if opcode == TEXT:
                    assert json.loads(payload)["type"] in ANSWERS
            assert set(opcodes) <= {TEXT, PONG, CLOSE}
            assert CLOSE not in opcodes[:-1]
        await wait_until(lambda: len(live.service.manager) == 0)


PATHS = st.builds(
    "/{}/{}{}{}".format,
    st.sampled_from(["users", "rooms", "rooms", "nothing"]),
    NAMES | TEXTS.map(quote),
    st.sampled_from(["", "", "/members", "/messages", "/messages", "/more"]),
    st.dictionaries(
        st.sampled_from(["epoch", "offset", "last", "surplus"]),
        st.integers(-1, 9) | ODD_VALUES.filter(lambda value: value != "\ud800") | TEXTS,
        max_size=3,
    ).map(lambda query: "?" + urlencode(query)),
)


@FUZZ
@given(path=PATHS)
async def test_the_routes_of_the_backend_answer_or_refuse_as_a_problem(
    live: Live, path: str
) -> None:
    with no_errors_logged():
        answer = await live.get(path, key=BACKEND)
    assert answer.status_code in {200, 400, 404, 414, 422}
    if answer.status_code != 200:
        assert answer.headers["content-type"] == PROBLEM_TYPE
        assert answer.json()["status"] == answer.status_code


BODIES = JSON | st.dictionaries(
    st.sampled_from(["data", "user", "room", "reason", "surplus"]), NAMES | JSON, max_size=4
)
KEYS = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300)


@FUZZ
@given(
    path=st.sampled_from(["/publish", "/publish", "/disconnect", "/rooms/lobby/evict"]),
    body=BODIES,
    key=KEYS,
)
async def test_what_the_backend_sends_is_accepted_or_refused_as_a_problem(
    live: Live, path: str, body: object, key: str | None
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    with no_errors_logged():
        answer = await live.post(path, body, headers=headers)
    assert answer.status_code in {202, 400, 404, 409, 422}
    if answer.status_code != 202:
        assert answer.headers["content-type"] == PROBLEM_TYPE
        assert answer.json()["status"] == answer.status_code


async def status_of(client: RawClient) -> int | None:
    """Return the status of the response, None if the connection ends without one."""
    try:
        return int((await client.head()).split(" ", 2)[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def is_alive(live: Live) -> bool:
    """Return whether the service answers, which it does not if a request arrives late."""
    with suppress(httpx.TransportError):
        return (await live.get("/livez")).status_code == 200
    return False


@FUZZ
@given(corruptions=CORRUPTIONS)
async def test_corrupted_requests_get_a_documented_status(
    short_timeout_service: Live, corruptions: Sequence[Corruption]
) -> None:
    request = corrupted(handshake(await short_timeout_service.options()), corruptions)
    with no_errors_logged():
        async with raw_connection("127.0.0.1", short_timeout_service.port) as client:
            client.send(request)
            status = await status_of(client)
            assert status is None or status in STATUSES
        await wait_until_async(partial(is_alive, short_timeout_service))
