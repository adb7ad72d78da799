"""Settings, read from the environment and a ``.env`` file, checked once at start.

Each option's module has a part of its own; `main.ServiceSettings` joins them to one frozen object.
Names carry their unit: ``_s`` for seconds, ``_bytes`` for bytes.
"""

from ipaddress import ip_network
from typing import Annotated, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .protocol import HeartbeatTerms

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
        msg = f"{value!r} is no origin; write scheme and host alone, like https://example.com"
        raise ValueError(msg)
    if not parts.hostname or "*" in value or "@" in value:
        msg = f"{value!r} must name exactly one host, like https://example.com"
        raise ValueError(msg)
    if parts.netloc.endswith({"http": ":80", "https": ":443"}[parts.scheme]):
        msg = f"{value!r} never matches: leave the usual port out, like https://example.com"
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
                f"{item!r} is no address and no network; write 10.0.0.5 or 10.0.0.0/8, "
                "or * alone for whoever connects"
            )
            raise ValueError(msg) from None
    return value


T = TypeVar("T")

CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxies = Annotated[CommaSeparated[str], AfterValidator(_check_proxies)]


class SettingsPart(BaseModel):
    """The settings of one option. What a part defines anew stands before the service's default."""

    origin_required: ClassVar[bool] = False
    """Whether clients that are no browsers, and so tell no origin, are refused."""

    def heartbeat_terms(self) -> HeartbeatTerms | None:
        """Return what ``welcome`` tells of the heartbeat, null without one."""
        return None

    def limits(self) -> dict[str, int]:
        """Return the limits that ``welcome`` tells to clients."""
        return {}


class Settings(SettingsPart, BaseSettings):
    """What every service has to decide."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Server
    environment: Literal["development", "production"] = "production"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_log_lines_per_s: PositiveInt = 250
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    shutdown_grace_s: int = Field(default=10, ge=2)
    # Proxies that are believed when they tell in X-Forwarded-For whom they speak for
    forwarded_allow_ips: Proxies = ("127.0.0.1", "::1")

    # How long a request may take to come, and what was sent to be taken; 0 is the system's patience
    handshake_timeout_s: PositiveFloat = 10.0
    tcp_user_timeout_s: NonNegativeFloat = 20.0

    # Who may connect
    allowed_origins: CommaSeparated[Origin] = ()
    max_handshakes_per_s: PositiveInt = 200
    max_handshakes_per_s_per_address: PositiveInt = 100
    max_connections: PositiveInt = 10_000
    max_connections_per_address: PositiveInt = 500
    max_connections_per_user: PositiveInt = 20
    user_limit_policy: Literal["replace_oldest", "refuse_newest"] = "replace_oldest"

    # What a connection may send, and owe
    clients_may_broadcast: bool = False
    max_messages_per_s: PositiveInt = 100
    max_bytes_per_s: PositiveInt = 262_144
    max_burst_s: PositiveInt = 5
    max_errors_in_a_row: PositiveInt = 20
    max_message_bytes: PositiveInt = 65_536
    max_unsent_bytes: PositiveInt = 1_048_576
    close_timeout_s: PositiveFloat = 5.0
    # How long a handler or an observer may take
    handler_timeout_s: PositiveFloat = 30.0

    # RFC 6455 pings, which browsers answer by themselves; an interval of 0 sends none
    ws_ping_interval_s: NonNegativeFloat = 20.0
    ws_ping_timeout_s: PositiveFloat = 20.0

    # The team's own backend: POST routes are off while there is no key
    backend_key: Secret | None = None
    # Whoever reads the metrics: there are none to read while there is no key
    metrics_key: Secret | None = None

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            SystemExit: a setting is missing or wrong; one line for each says how to mend it.

        """
        try:
            return cls()
        except ValidationError as failure:
            raise SystemExit("\n".join(_explain(failure))) from None

    def limits(self) -> dict[str, int]:
        """Tell clients how large a message may be, and how fast messages may come."""
        return super().limits() | {
            "message_bytes": self.max_message_bytes,
            "messages_per_s": self.max_messages_per_s,
            "bytes_per_s": self.max_bytes_per_s,
            "burst_s": self.max_burst_s,
        }


def _explain(failure: ValidationError) -> list[str]:
    lines = []
    for error in failure.errors(include_url=False, include_input=False, include_context=False):
        name = str(error["loc"][0]).upper() if error["loc"] else "settings"
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "missing":
            reason = "is not set"
        elif error["type"] == "extra_forbidden":
            reason = "is no setting of this service; .env.example lists them all"
        lines.append(f"error: {name}: {reason}")
    return lines
