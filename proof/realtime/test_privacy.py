"""The service logs no credentials, query or payload, at any log level."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from websockets.exceptions import InvalidHandshake, InvalidStatus

from dev import fresh_secrets

from .client import DEADLINE_S, START_S, STOP_S, Client, ConnectOptions, connect_options
from .live import ORIGIN, make_settings
from .server.test_process import run_process

PRIVATE = "private-text"


class RecordedService:
    """A service in its own process, its output, and the texts that must not appear there."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self.port = 0
        self.printed = ""
        self.private = {PRIVATE, *secrets.values()}
        self._secrets = {name.lower(): value for name, value in secrets.items()}

    async def options(self) -> ConnectOptions:
        """Return new options to connect, and add their credentials to the private texts."""
        options = await connect_options(make_settings(**self._secrets), "alice", port=self.port)
        headers = [value for name, value in options.headers.items() if name != "Origin"]
        queries = [value for _, value in parse_qsl(urlsplit(options.uri).query)]
        # The scheme or the cookie's name before a space or an equals sign is no secret.
        self.private.update(re.split("[ =]", text, maxsplit=1)[-1] for text in headers + queries)
        return options

    async def attempt(self, options: ConnectOptions, *commands: str) -> None:
        """Try to connect and send some frames."""
        with suppress(InvalidHandshake):
            client = await Client.open(options, welcomed=False)
            for command in commands:
                await client.send_text(command)
            await client.connection.close(1000, PRIVATE)
            await client.closed()

    async def send(self, data: bytes) -> bytes:
        """Send bytes on a new connection, and return the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        writer.write_eof()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def run_recorded(
    cwd: Path, secrets: dict[str, str] | None = None, **environment: str
) -> AsyncIterator[RecordedService]:
    """Run a service at level DEBUG; its output must not contain a private text."""
    secrets = fresh_secrets() if secrets is None else secrets
    recorded = RecordedService(secrets)
    environment |= {"PORT": "0", "LOG_LEVEL": "DEBUG"}
    async with run_process(cwd, **secrets, **environment) as process:
        assert process.stderr is not None
        async with asyncio.timeout(START_S):
            while "http://" not in recorded.printed:
                line = await process.stderr.readline()
                assert line, recorded.printed
                recorded.printed += line.decode()
        recorded.port = int(recorded.printed.rpartition("http://127.0.0.1:")[2].split()[0])
        yield recorded
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            output, errors = await process.communicate()
    recorded.printed += (output + errors).decode()
    for text in recorded.private:
        assert text not in recorded.printed


def with_headers(options: ConnectOptions, **headers: str) -> ConnectOptions:
    return replace(options, headers=options.headers | headers)


def with_bad_credentials(options: ConnectOptions) -> ConnectOptions:
    """Return the options with invalid credentials."""
    query = urlsplit(options.uri).query
    return replace(
        options,
        uri=options.uri.replace(query, query[:-4] + PRIVATE) if query else options.uri,
        headers={name: value[:-4] + PRIVATE for name, value in options.headers.items()}
        | {"Origin": ORIGIN},
    )


def request(options: ConnectOptions, **headers: str) -> bytes:
    """Return a request with credentials that is not a valid handshake."""
    uri = urlsplit(options.uri)
    lines = [f"{name}: {value}" for name, value in (options.headers | headers).items()]
    head = [f"GET /ws?{uri.query}&q={PRIVATE} HTTP/1.1", "Host: test", "Connection: close", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


@pytest.mark.hostile(45)
@pytest.mark.parametrize("environment", ["production", "development"])
async def test_handshakes_do_not_log_credentials(tmp_path: Path, environment: str) -> None:
    async with run_recorded(tmp_path, ENVIRONMENT=environment, MAX_CONNECTIONS="10") as service:
        # Accepted, with various frames.
        frames = (PRIVATE, {"type": PRIVATE}, {"type": "broadcast", "data": PRIVATE})
        await service.attempt(await service.options(), *map(json.dumps, frames))

        # Refused for its credentials or its origin.
        await service.attempt(with_bad_credentials(await service.options()))
        stranger = with_headers(await service.options(), Origin=f"https://{PRIVATE}.test")
        await service.attempt(stranger)

        # Malformed: credentials in several wrong places, and requests that are no handshake.
        options = await service.options()
        everywhere = with_headers(
            options, Authorization=f"Bearer {PRIVATE}", Cookie=f"a={PRIVATE}", Other=PRIVATE
        )
        everywhere = replace(
            everywhere, uri=f"{options.uri}?q={PRIVATE}", subprotocols=["ws.v1", PRIVATE]
        )
        await service.attempt(everywhere)
        await service.attempt(replace(everywhere, uri=options.uri.replace("/ws", "/other")))
        upgrade = {"Upgrade": "websocket", "Connection": "upgrade"}
        for data in (
            request(options),
            request(options, **upgrade),
            request(options, **upgrade, Version=PRIVATE),
            request(options, Authorization=f"Bearer \xff{PRIVATE}"),
            request(options, Other=PRIVATE * 10_000),
            request(options).replace(b"HTTP/1.1", b"HTTP/9.9"),
            request(options).replace(b"GET", b"POST"),
            PRIVATE.encode(),
        ):
            await service.send(data)

        # Refused: the service is at capacity.
        clients = []
        with suppress(InvalidStatus):
            while True:
                clients.append(await Client.open(await service.options()))
        for client in clients:
            await client.close()
    for event in ("connection opened", "connection closed", "handshake refused"):
        assert event in service.printed
