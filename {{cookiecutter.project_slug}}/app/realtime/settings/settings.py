"""Every setting of the engine, read from the environment and a ``.env`` file, checked at start.

Names carry their unit: ``_s`` for seconds, ``_bytes`` for bytes. `.env.example` explains each.
"""

import sys
from typing import Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ..auth import AuthSettings
from ..fields import MAKE_ANOTHER, YEAR_S, CommaSeparated, Host, Key, Origin, Proxies, Seconds
from .environment import read_files, unknown_names
# {% if cookiecutter.redis %}
from .redis import RedisSettings
# {% endif %}

LAST_PORT = 65_535


class RealtimeSettings(
    AuthSettings,
    # {% if cookiecutter.redis %}
    RedisSettings,
    # {% endif %}
    BaseSettings,
):
    """The settings of the engine. `app/settings.py` adds your own."""

    model_config = SettingsConfigDict(
        dotenv_filtering="only_existing",
        env_file=".env",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    # Server
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_log_lines_per_s: PositiveInt = 250
    host: Host = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=LAST_PORT)
    workers: int = Field(default=1, ge=1, le=1024)
    # How long clients are still accepted after /readyz answers 503
    shutdown_delay_s: float = Field(default=0, ge=0, le=YEAR_S)
    shutdown_grace_s: int = Field(default=10, ge=2, le=YEAR_S)
    # Proxies whose X-Forwarded-For is trusted
    forwarded_allow_ips: Proxies = ("127.0.0.1", "::1")
    # How long a request may take to arrive, and your authenticator to check it
    handshake_timeout_s: Seconds = 10.0
    # How long sent data may take to be acknowledged; 0 for the system's default
    tcp_user_timeout_s: float = Field(default=20.0, ge=0, le=86_400)

    # Who may connect
    allowed_origins: CommaSeparated[Origin] = ()
    max_handshakes_per_s: PositiveInt = 200
    max_handshakes_per_s_per_address: PositiveInt = 100
    max_connections: PositiveInt = 10_000
    max_connections_per_address: PositiveInt = 500
    max_connections_per_user: PositiveInt = 20
    user_limit_policy: Literal["replace_oldest", "refuse_newest"] = "replace_oldest"

    # What a connection may send, and leave unread
    clients_may_broadcast: bool = False
    max_messages_per_s: PositiveInt = 100
    max_bytes_per_s: PositiveInt = 262_144
    max_messages_per_s_per_user: PositiveInt = 400
    max_bytes_per_s_per_user: PositiveInt = 1_048_576
    max_bytes_per_s_per_target: PositiveInt = 65_536
    max_burst_s: PositiveInt = 5
    max_errors_in_a_row: PositiveInt = 20
    max_message_bytes: PositiveInt = 65_536
    max_unsent_bytes: int = Field(default=1_048_576, ge=4_096)
    max_unsent_total_bytes: PositiveInt = 16_777_216
    close_timeout_s: Seconds = 5.0
    # How long a handler or an observer may take
    handler_timeout_s: Seconds = 30.0

    # {% if cookiecutter.rooms %}
    # Rooms, and who is in them
    max_rooms_per_connection: PositiveInt = 100
    max_members_for_presence_events: PositiveInt = 100
    max_members_listed: PositiveInt = 500
    # {% if cookiecutter.redis %}
    presence_lease_s: float = Field(default=20.0, ge=1.0, le=3600.0)
    # {% endif %}
    # The history of each room; with 0 messages, they are numbered, but not stored. The total is for
    # all rooms whose messages this process stores
    history_messages: int = Field(default=100, ge=0)
    history_s: Seconds = 300.0
    history_bytes: PositiveInt = 262_144
    history_total_bytes: PositiveInt = 67_108_864
    # {% if cookiecutter.redis %}
    history_user_bytes: PositiveInt = 8_388_608
    # {% endif %}

    # {% endif %}
    # {% if cookiecutter.heartbeat %}
    # The heartbeat: shorter than the minute after which proxies close an idle connection
    heartbeat_interval_s: Seconds = 25.0
    heartbeat_timeout_s: Seconds = 10.0
    # Pings of RFC 6455; off (0), since two heartbeats would race to close a connection
    ws_ping_interval_s: float = Field(default=0.0, ge=0, le=YEAR_S)
    # {% else %}
    # Pings of RFC 6455, which browsers answer by themselves; 0 sends none
    ws_ping_interval_s: float = Field(default=20.0, ge=0, le=YEAR_S)
    # {% endif %}
    ws_ping_timeout_s: Seconds = 20.0

    # {% if cookiecutter.auth != "ticket" %}
    # The key of your backend; without it, its routes are off
    backend_key: Key | None = None
    # {% endif %}
    # The key of your monitoring; without it, /metrics is off
    metrics_key: Key | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_blank(cls, value: object, field: ValidationInfo) -> object:
        is_own = field.field_name in RealtimeSettings.model_fields  # not a setting of the team
        if is_own and isinstance(value, str) and value.isspace():
            raise ValueError("has only spaces; leave it out for its default")
        return value

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        # {% if cookiecutter.redis %}
        if self.workers > 1 and self.redis_url is None:
            raise ValueError("WORKERS: several need REDIS_URL, to reach each other's clients")
        if self.workers > 1 and self.port and self.port + self.workers > LAST_PORT:
            raise ValueError(f"PORT: must be at most {LAST_PORT - self.workers} for these WORKERS")
        # {% else %}
        if self.workers > 1:
            raise ValueError("WORKERS: must be 1: several cannot reach each other's clients")
        # {% endif %}
        return self

    @model_validator(mode="after")
    def _check_unsent_bytes(self) -> Self:
        # Otherwise one large message would close its recipient.
        if self.max_unsent_bytes < 2 * self.max_message_bytes:
            raise ValueError("MAX_UNSENT_BYTES: must be at least twice MAX_MESSAGE_BYTES")
        # {% if cookiecutter.rooms %}
        # So would the replay of missed messages.
        if self.max_unsent_bytes < self.history_bytes + self.max_message_bytes:
            raise ValueError("MAX_UNSENT_BYTES: must be at least HISTORY_BYTES + MAX_MESSAGE_BYTES")
        # {% endif %}
        return self

    @model_validator(mode="after")
    def _check_secrets_differ(self) -> Self:
        names: dict[str, str] = {}
        for name in RealtimeSettings.model_fields:  # not those of the team
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            for secret in (each for each in values if isinstance(each, SecretStr)):
                first = names.setdefault(secret.get_secret_value(), name)
                if first != name:
                    problem = f"{name.upper()}: is the same as {first.upper()}"
                    raise ValueError(f"{problem}; {MAKE_ANOTHER}")
        return self

    @classmethod
    def load(cls) -> Self:
        """Read the environment and ``.env``, and the files that they name.

        Raises:
            SystemExit: a setting is missing or wrong; one line for each says how to correct it.
        """
        try:
            for name in unknown_names(cls):
                reason = "is not a setting of this service; .env.example lists all settings"
                print(f"warning: {name}: {reason}", file=sys.stderr)
            return cls(**read_files(cls))
        except (OSError, UnicodeDecodeError):
            raise SystemExit("error: .env: is not a text file that this process can read") from None
        except SettingsError as failure:
            raise SystemExit(f"error: {failure}") from None
        except ValidationError as failure:
            raise SystemExit("\n".join(_explain(failure))) from None


def _explain(failure: ValidationError) -> list[str]:
    lines = []
    for error in failure.errors(include_url=False, include_input=False, include_context=False):
        # Without a location, the reason begins with a name. A nested field's location is longer.
        name, *fields = error["loc"] or [""]
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "missing":
            reason = "is not set"
        place = ".".join([str(name).upper(), *(each for each in fields if isinstance(each, str))])
        lines.append(f"error: {place}: {reason}" if place else f"error: {reason}")
    return lines
