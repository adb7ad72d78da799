"""The settings of Redis: its address, its limits, and the checks of both."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from redis.asyncio.connection import parse_url

from .fields import SettingsPart

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

URL = re.compile(r"(\w+://(?:[^/?#]*@)?)([^/?#]*)(.*)")
"""What is before the hosts, the hosts, and what is behind them (RFC 3986 §3)."""

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
"""What may stand behind the ``?`` of a URL. Everything else is decided by this service."""


def server_urls(url: str) -> list[str]:
    """Return the URL of each server: ``redis://a,b/0`` names two that have the rest in common."""
    # Not with `urlsplit`, which takes a list for one bad host as soon as there are brackets in it.
    parts = URL.fullmatch(url)
    return [parts[1] + host + parts[3] for host in parts[2].split(",")] if parts else [url]


def _check_url(url: SecretStr) -> SecretStr:
    problem: str | None
    for server_url in server_urls(url.get_secret_value()):
        try:
            problem = _problem_of_url(server_url)
        except ValueError:
            problem = "is no address of a server; write one like redis://localhost:6379/0"
        if problem is not None:
            raise ValueError(problem)
    return url


def _problem_of_url(url: str) -> str | None:
    """Return what is wrong, without a word of what may be secret.

    Raises:
        ValueError: it is no URL of a server.

    """
    parts = urlsplit(url)
    behind_the_host = "" if parts.scheme == "unix" else parts.path + parts.query
    if "#" in url or "@" in behind_the_host:
        return "percent-encode # / ? @ in a user or password: write %23 %2F %3F %40"
    target = parse_url(url)
    target.get("host", "").encode("idna")
    if int(target.get("db", 0)) < 0 or (behind_the_host and not DATABASE.fullmatch(parts.path)):
        return "the path is no number of a database; write one like redis://localhost:6379/0"
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if strange := options.keys() - OPTIONS:
        return f"takes no option {min(strange)!r}, only {', '.join(sorted(OPTIONS))}"
    return _problem_of_tls(options, parts.scheme)


def _problem_of_tls(options: dict[str, str], scheme: str) -> str | None:
    used = options.keys() & TLS_OPTIONS
    if used and scheme != "rediss":
        return f"the option {min(used)!r} is for TLS; write rediss://"
    if options.get("ssl_cert_reqs", "required") not in {"none", "optional", "required"}:
        return "ssl_cert_reqs is none, optional or required"
    for name in sorted(used & TLS_FILES):
        if not Path(options[name]).is_file():
            return f"{name} names no file"
    return None


class RedisSettings(SettingsPart):
    """Where Redis is, and how long it may take. Without a URL the service is a single node.

    With ``redis_cluster`` the URL names some servers of a cluster, with ``redis_sentinel`` the
    sentinels that know the servers of that name.
    """

    redis_url: Annotated[SecretStr, AfterValidator(_check_url)] | None = None
    redis_cluster: bool = False
    redis_sentinel: str | None = None
    redis_sentinel_username: str | None = None
    redis_sentinel_password: SecretStr | None = None
    redis_prefix: str = Field(default="", validate_default=True, max_length=64, pattern=r"^[^{}]*$")
    # Those that `redis.client.RESERVED` counts, and at least one for all other commands
    redis_max_connections: int = Field(default=8, ge=5)
    redis_timeout_s: PositiveFloat = 1.0
    redis_ping_interval_s: PositiveFloat = 2.0
    redis_probe_interval_s: PositiveFloat = 2.0
    redis_retry_max_s: PositiveFloat = 5.0
    redis_max_waiting_bytes: PositiveInt = 16_777_216

    @property
    def redis_database(self) -> int:
        """Return the number of the database."""
        if self.redis_url is None:
            return 0
        return int(parse_url(server_urls(self.redis_url.get_secret_value())[0]).get("db", 0))

    @field_validator("redis_prefix")
    @classmethod
    def _name_project(cls, prefix: str, info: ValidationInfo) -> str:
        if prefix or info.data.get("redis_url") is None:
            return prefix
        return f"{project_name()}:"

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.redis_url is None:
            return self
        urls = server_urls(self.redis_url.get_secret_value())
        target = parse_url(urls[0])
        if self.redis_cluster and self.redis_sentinel is not None:
            msg = "REDIS_CLUSTER and REDIS_SENTINEL exclude each other; leave one out"
        elif self.redis_cluster and target.get("db"):
            msg = "REDIS_URL: a cluster has database 0 only"
        elif (self.redis_cluster or self.redis_sentinel) and target.get("path"):
            msg = "REDIS_URL: clusters and sentinels have TCP ports; name one like redis://a:6379"
        elif len(urls) > 1 and not (self.redis_cluster or self.redis_sentinel):
            msg = "REDIS_URL: several servers need REDIS_CLUSTER=true or the name in REDIS_SENTINEL"
        else:
            return self
        raise ValueError(msg)


def project_name() -> str:
    """Return the project's name, from ``pyproject.toml`` or of the installed distribution.

    Raises:
        ValueError: neither names the project.

    """
    package = __name__.partition(".")[0]
    try:
        if not PYPROJECT.exists():
            return packages_distributions()[package][0]
        name: str = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        msg = f"{PYPROJECT} does not name the project"
        raise ValueError(msg) from None
    return name
