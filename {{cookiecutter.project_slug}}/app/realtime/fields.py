"""Types of settings: secrets, lists, origins, proxies. Each validates its value."""

from ipaddress import ip_network
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

MIN_SECRET_BYTES = 32


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    size = len(value.get_secret_value().encode())
    if size < MIN_SECRET_BYTES:
        msg = (
            f"has {size} bytes, needs at least {MIN_SECRET_BYTES}; make one with: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
        raise ValueError(msg)
    return value


def _check_origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or value != f"{parts.scheme}://{parts.netloc}":
        problem = "is not an origin: write the scheme and the host only"
    elif not parts.hostname or "*" in value or "@" in value:
        problem = "must name exactly one host"
    elif parts.netloc.endswith({"http": ":80", "https": ":443"}[parts.scheme]):
        problem = "never matches: leave the default port out"
    else:
        return value.lower()
    raise ValueError(f"{value!r} {problem}, like https://example.com")


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
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxies = Annotated[CommaSeparated[str], AfterValidator(_check_proxies)]


class SettingsPart(BaseModel):
    """Settings of one part of the engine, and the environment, which all parts may check."""

    environment: Literal["development", "production"] = "production"
