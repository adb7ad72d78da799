"""An issuer of tokens, which publishes its keys on a real socket, or fails to."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    generate_private_key as generate_rsa_key,
)

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


@cache
def rsa_key(bits: int = 2048) -> RSAPrivateKey:
    """Return a key that takes long to make; one will do."""
    return generate_rsa_key(65_537, bits)


def new_key(algorithm: str) -> PrivateKey:
    """Return a key for this algorithm."""
    match algorithm:
        case "RS256":
            return rsa_key()
        case "ES256":
            return generate_private_key(SECP256R1())
        case _:
            return Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, algorithm: str = "EdDSA", **fields: object) -> dict[str, Any]:
    """Return what is published of a key, but for these fields."""
    published = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**published, "kid": "1", "use": "sig", "alg": algorithm, **fields}


class Issuer:
    """Signs tokens with a key of its own, and counts how often it is asked for its keys."""

    def __init__(self, server: asyncio.Server, scheme: str) -> None:
        host, port = server.sockets[0].getsockname()
        self.url = f"{scheme}://{host}:{port}/keys?policy=private"
        self.fetches = 0
        self.status = "200 OK"
        self.body: bytes | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self._server = server
        self.rotate("1")

    def rotate(self, key_id: str, algorithm: str = "EdDSA") -> None:
        """Sign with a new key from now on, and publish no other."""
        self.key_id, self.algorithm, self.key = key_id, algorithm, new_key(algorithm)

    def token(self, key_id: str | None = None, **claims: object) -> str:
        """Return a token of alice's, but for these claims; it may name a key that there is not."""
        merged = {"sub": "alice", "exp": int(time.time()) + 60, **claims}
        return jwt.encode(merged, self.key, self.algorithm, {"kid": key_id or self.key_id})

    def published(self) -> bytes:
        """Return the set of keys."""
        return json.dumps({"keys": [jwk(self.key, self.algorithm, kid=self.key_id)]}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; the client may disconnect at any time."""
        # uvloop raises the last one if the client has disconnected.
        with suppress(OSError, asyncio.IncompleteReadError, RuntimeError):
            with closing(writer):
                await reader.readuntil(b"\r\n\r\n")
                self.fetches += 1
                await self._answer(writer)
            await writer.wait_closed()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        """Answer, but while there is no answer, begin it and never get to the point."""
        head = f"HTTP/1.1 {self.status}\r\nLocation: {self.url}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        while not self.answers.is_set():
            if writer.is_closing():
                return
            writer.write(b" ")
            await asyncio.sleep(0.01)
        writer.write(self.published() if self.body is None else self.body)

    def stop(self) -> None:
        """Be down."""
        self._server.close()


@asynccontextmanager
async def run_issuer(tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    """Run an issuer on a port of the system's choice."""
    async with asyncio.TaskGroup() as requests:

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.create_task(issuer.serve(reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        issuer = Issuer(server, "https" if tls else "http")
        try:
            yield issuer
        finally:
            issuer.stop()
            issuer.answers.set()
