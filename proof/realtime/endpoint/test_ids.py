"""The id of a frame that the validator cannot read is in its answer, too."""

import pytest

from ..live import run_service

LONE_SURROGATE = r"\ud83d"
"""A program that cuts a text in two may make it."""


@pytest.mark.parametrize(
    ("data", "command_id"),
    [
        (f'"{LONE_SURROGATE}"', '"1"'),
        ("[" * 300 + "]" * 300, '"1"'),
        (f'["{LONE_SURROGATE}", {"9" * 5_000}]', '"1"'),
        (f'["{LONE_SURROGATE}", NaN]', '"1"'),
        (f'"{LONE_SURROGATE}"', "1"),
        (f'"{LONE_SURROGATE}"', f'"{LONE_SURROGATE}"'),
        ("[" * 20_000, '"1"'),
    ],
)
async def test_what_cannot_be_read_is_answered_with_its_id(data: str, command_id: str) -> None:
    fields = f'"type": "send", "to": "bob", "data": {data}, "id": {command_id}'
    has_id = command_id == '"1"' and not data.endswith("[")
    async with run_service() as live:
        client = await live.connect()
        await client.send_text("{" + fields + "}")
        error = await client.receive("error")
        assert (error["code"], error["id"]) == ("bad_request", "1" if has_id else None)
        await client.ask(type="ping")
