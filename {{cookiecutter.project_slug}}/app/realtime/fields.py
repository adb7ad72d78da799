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
        msg = f"{value!r} is not an origin; write the scheme and the host only, like https://example.com"
        raise ValueError(msg)
    if not parts.hostname or "*" in value or "@" in value:
        msg = f"{value!r} must name exactly one host, like https://example.com"
        raise ValueError(msg)
    if parts.netloc.endswith({"http": ":80", "https": ":443"}[parts.scheme]):
        msg = f"{value!r} never matches: leave the default port out, like https://example.com"
        raise ValueError(msg)
    return value.lower()


def _check_proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    if value == ("*",):
        return value
    for item in value:
        try:
            ip_network(item)
        except ValueError:
            msg = (
                f"{item!r} is neither an address nor a network; write 10.0.0.5 or 10.0.0.0/8, "
                "or * alone to believe everybody"
            )
            raise ValueError(msg) from None
    return value


T = TypeVar("T")

CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxies = Annotated[CommaSeparated[str], AfterValidator(_check_proxies)]


class SettingsPart(BaseModel):
    """Settings of one part of the engine, with those that the checks of every part may use."""

    environment: Literal["development", "production"] = "production"
