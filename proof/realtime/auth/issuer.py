"""A token issuer that serves its JWKS on a real socket, with faults on demand."""

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
    """Return a key; cached, since generating one is slow."""
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
    """Return a key as JWK, with some fields replaced."""
    published = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**published, "kid": "1", "use": "sig", "alg": algorithm, **fields}


class Issuer:
    """Signs tokens with its own key, and counts the fetches of its JWKS."""

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
        """Replace the key by a new one."""
        self.key_id, self.algorithm, self.key = key_id, algorithm, new_key(algorithm)

    def token(self, key_id: str | None = None, **claims: object) -> str:
        """Return a token for alice, with some claims replaced; `key_id` may be unknown."""
        merged = {"sub": "alice", "exp": int(time.time()) + 60, **claims}
        return jwt.encode(merged, self.key, self.algorithm, {"kid": key_id or self.key_id})

    def published(self) -> bytes:
        """Return the JWKS."""
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
        """Respond; while `answers` is not set, send the head and then only blanks."""
        head = f"HTTP/1.1 {self.status}\r\nLocation: {self.url}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        while not self.answers.is_set():
            if writer.is_closing():
                return
            writer.write(b" ")
            await asyncio.sleep(0.01)
        writer.write(self.published() if self.body is None else self.body)

    def stop(self) -> None:
        """Stop listening."""
        self._server.close()


@asynccontextmanager
async def run_issuer(tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    """Run an issuer on a port picked by the system."""
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
