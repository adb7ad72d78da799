"""The settings of Redis: addresses, limits, and their validation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from redis.asyncio.connection import SSLConnection, parse_url

from ..fields import Key, Seconds, SettingsPart
from .project import read_project

URL = re.compile(r"(\w+://(?:[^/?#]*@)?)([^/?#]*)(.*)")
"""The parts of a URL before the hosts, the hosts, and the parts after them (RFC 3986 §3)."""

DATABASE = re.compile(r"/?|/\d+")

TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
TLS_OPTIONS = TLS_FILES | {
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_min_version",
    "ssl_password",
}
OPTIONS = TLS_OPTIONS | {"client_name", "db", "password", "username"}
"""Options that the query of a URL may have. The service decides all others."""


def server_urls(url: str) -> list[str]:
    """Return the URL of each server: ``redis://a,b/0`` names two servers that share the rest."""
    # Not by `urlsplit`: it reads a list with brackets as one bad host.
    parts = URL.fullmatch(url)
    return [parts[1] + host + parts[3] for host in parts[2].split(",")] if parts else [url]


def _check_url(url: SecretStr) -> SecretStr:
    problem: str | None
    for server_url in server_urls(url.get_secret_value()):
        try:
            problem = _problem_of_url(server_url)
        except ValueError:
            problem = "is not the address of a server; write one like redis://localhost:6379/0"
        if problem is not None:
            raise ValueError(problem)
    return url


def _problem_of_url(url: str) -> str | None:
    """Return the problem of a URL or None; the text never contains the user or the password.

    Raises:
        ValueError: this is not the URL of a server.
    """
    parts = urlsplit(url)
    after_host = "" if parts.scheme == "unix" else parts.path + parts.query
    if "#" in url or "@" in after_host:
        return "percent-encode # / ? @ in a user or password: write %23 %2F %3F %40"
    target = parse_url(url)
    target.get("host", "").encode("idna")
    if int(target.get("db", 0)) < 0 or (after_host and not DATABASE.fullmatch(parts.path)):
        return "the path is not the number of a database; write one like redis://localhost:6379/0"
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if strange := options.keys() - OPTIONS:
        return f"takes no option {min(strange)!r}, only {', '.join(sorted(OPTIONS))}"
    return _problem_of_tls(options, parts.scheme) or _problem_of_context(target)


def _problem_of_tls(options: dict[str, str], scheme: str) -> str | None:
    used = options.keys() & TLS_OPTIONS
    if used and scheme != "rediss":
        return f"the option {min(used)!r} is for TLS; write rediss://"
    if options.get("ssl_cert_reqs", "required") not in {"none", "optional", "required"}:
        return "ssl_cert_reqs must be none, optional or required"
    for name in sorted(used & TLS_FILES):
        if not Path(options[name]).is_file():
            return f"{name} does not name a file"
    return None


def _problem_of_context(target: Mapping[str, Any]) -> str | None:
    options = {name: value for name, value in target.items() if name in TLS_OPTIONS}
    try:
        if options:
            SSLConnection(**options).ssl_context.get()
    except (OSError, OverflowError, ValueError) as failure:
        return f"the options for TLS cannot be used: {failure}"
    return None


class RedisSettings(SettingsPart):
    """The address of Redis, timeouts and limits. Without a URL the service is a single node.

    With ``redis_cluster`` the URL lists some servers of a cluster. With ``redis_sentinel``, which
    is the name of a group of servers, it lists the sentinels that monitor them.
    """

    redis_url: Annotated[SecretStr, AfterValidator(_check_url)] | None = None
    redis_cluster: bool = False
    redis_sentinel: str | None = None
    redis_sentinel_username: str | None = None
    redis_sentinel_password: SecretStr | None = None
    redis_prefix: str = Field(default="", validate_default=True, max_length=64, pattern=r"^[^{}]*$")
    # Those that `redis.client.RESERVED` counts, and at least one for all other commands
    # {% if cookiecutter.rooms %}
    redis_max_connections: int = Field(default=8, ge=5)
    # {% else %}
    redis_max_connections: int = Field(default=8, ge=4)
    # {% endif %}
    redis_timeout_s: Seconds = 1.0
    redis_ping_interval_s: Seconds = 2.0
    redis_probe_interval_s: Seconds = 2.0
    redis_retry_max_s: Seconds = 5.0
    redis_max_waiting_bytes: PositiveInt = 16_777_216
    # For compose.yaml, which puts it into the URL
    valkey_password: Key | None = None

    @property
    def redis_urls(self) -> list[str]:
        """Return the URL of each server, none without ``REDIS_URL``."""
        return server_urls(self.redis_url.get_secret_value()) if self.redis_url else []

    @property
    def redis_database(self) -> int:
        """Return the number of the database."""
        return int(parse_url(self.redis_urls[0]).get("db", 0)) if self.redis_urls else 0

    @field_validator("redis_prefix")
    @classmethod
    def _name_project(cls, prefix: str, info: ValidationInfo) -> str:
        if prefix[-1:].isdigit():
            raise ValueError("must not end in a digit, since the number of the database follows it")
        if prefix or info.data.get("redis_url") is None:
            return prefix
        return f"{read_project().name}:"

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.redis_url is None:
            if self.redis_cluster or self.redis_sentinel:
                raise ValueError("REDIS_URL: is not set; REDIS_CLUSTER and REDIS_SENTINEL need it")
            return self
        urls = self.redis_urls
        target = parse_url(urls[0])
        if self.redis_cluster and self.redis_sentinel is not None:
            msg = "REDIS_CLUSTER: REDIS_SENTINEL is set as well; leave one of them out"
        elif self.redis_cluster and target.get("db"):
            msg = "REDIS_URL: a cluster has database 0 only"
        elif (self.redis_cluster or self.redis_sentinel) and target.get("path"):
            msg = "REDIS_URL: clusters and sentinels have TCP ports; name one like redis://a:6379"
        elif len(urls) > 1 and not (self.redis_cluster or self.redis_sentinel):
            msg = "REDIS_URL: several servers need REDIS_CLUSTER=true or the name in REDIS_SENTINEL"
        else:
            return self
        raise ValueError(msg)
