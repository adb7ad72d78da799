"""Types of settings: secrets, times, lists, origins, proxies. Each validates its value."""

import re
from contextlib import suppress
from ipaddress import ip_network
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, HttpUrl, SecretStr
from pydantic_settings import NoDecode

MIN_SECRET_BYTES = 32
MIN_DIFFERENT_CHARACTERS = 8
"""A random secret of `MIN_SECRET_BYTES` has more; spaces, or a repeated word, have fewer."""

MAKE_ANOTHER = "make another with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

ORIGIN_OF_AN_APP = re.compile(r"(?!(https?|wss?|file):)[a-z][a-z0-9+.-]*://[\w.-]+(:[0-9]+)?")
"""The origin of an app, such as ``capacitor://localhost`` or ``chrome-extension://<id>``."""

YEAR_S = 31_536_000


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    size = len(secret.encode())
    if size < MIN_SECRET_BYTES:
        raise ValueError(f"has {size} bytes, needs at least {MIN_SECRET_BYTES}; {MAKE_ANOTHER}")
    if len(set(secret)) < MIN_DIFFERENT_CHARACTERS:
        raise ValueError(f"repeats few characters, so it can be guessed; {MAKE_ANOTHER}")
    return value


def _check_key(value: SecretStr) -> SecretStr:
    if re.search("[^!-~]", value.get_secret_value()):
        raise ValueError(f"must be ASCII without spaces, to fit in a header; {MAKE_ANOTHER}")
    return value


def _check_origin(value: str) -> str:
    origin = value.lower()
    if ORIGIN_OF_AN_APP.fullmatch(origin):
        return origin
    with suppress(ValueError):  # `HttpUrl` writes it as browsers do, with a slash at the end
        if str(HttpUrl(origin)) == f"{origin}/" and not re.search("[*@]", origin):
            return origin
    problem = "never matches; write the scheme, one host, and a port unless it is the default"
    raise ValueError(f"{value!r} {problem}, like https://example.com")


def _check_host(value: str) -> str:
    # A space, slash or bracket, or exactly one colon, which precedes a port.
    if re.search(r"[\s/\[\]]|^[^:]*:[^:]*$", value):
        raise ValueError("must be an address or a name alone, like 127.0.0.1, ::1 or localhost")
    return value


def _check_proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    if value == ("*",):
        return value
    for item in value:
        try:
            ip_network(item)
        except ValueError:
            problem = "is neither an address nor a network; write 10.0.0.5 or 10.0.0.0/8"
            raise ValueError(f"{item!r} {problem}, or * alone to trust all") from None
    return value


T = TypeVar("T")

CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
Key = Annotated[Secret, AfterValidator(_check_key)]
Seconds = Annotated[float, Field(gt=0, le=YEAR_S)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Host = Annotated[str, AfterValidator(_check_host)]
Proxies = Annotated[CommaSeparated[str], AfterValidator(_check_proxies)]


class SettingsPart(BaseModel):
    """Settings of one part of the engine, and the environment, which all parts may check."""

    environment: Literal["development", "production"] = "production"
