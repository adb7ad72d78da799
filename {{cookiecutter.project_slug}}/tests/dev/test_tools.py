"""The tools for development do what the README says."""

import json
import re
import shutil
import stat
from pathlib import Path

import pytest

from app.realtime import RealtimeSettings
from app.realtime.settings.environment import setting_names
from app.settings import Settings
# {% if cookiecutter.rooms %}
from client import Message
# {% endif %}
from dev import asyncapi, env, fresh_secrets, token
# {% if cookiecutter.rooms %}
from dev.client import show_message
# {% endif %}
# {% if cookiecutter.redis and cookiecutter.auth == "api_key" %}
from dev.nodes import commands
# {% elif cookiecutter.redis %}
from dev.nodes import links
# {% endif %}
from dev.urls import base_url

from ..realtime.client import Client, ConnectOptions
# {% if cookiecutter.auth == "api_key" %}
from ..realtime.live import Live
# {% else %}
from ..realtime.live import ORIGIN, Live
# {% endif %}

PROJECT = Path(__file__).parents[2]


def test_the_first_env_file_has_fresh_secrets_and_starts_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / ".env.example", tmp_path)
    monkeypatch.chdir(tmp_path)
    env.main()
    env_file = tmp_path / ".env"
    monkeypatch.setitem(Settings.model_config, "env_file", env_file)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert Settings.load().environment == "development"
    env_file.unlink()
    monkeypatch.setattr(env, "fresh_secrets", lambda: env_file.write_text("mine") and {})
    with pytest.raises(SystemExit, match="exists already"):
        env.main()
    assert env_file.read_text(encoding="utf-8") == "mine"
    env_file.unlink()
    env_file.symlink_to("nowhere")
    with pytest.raises(SystemExit, match="exists already"):
        env.main()


def test_the_example_names_every_setting_and_the_engines_defaults() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        for variable in setting_names(name, field):
            line = re.search(rf"(?mi)^#?{re.escape(variable)}(__\w+)?=", example)
            assert line, f"add {variable.upper()} to .env.example"
    shown = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    for name in RealtimeSettings.model_fields.keys() & map(str.lower, shown):
        default = Settings.model_fields[name].default
        default = ",".join(default) if isinstance(default, tuple) else default
        expected = "" if default is None else str(default)
        assert shown[name.upper()].lower() == expected.lower(), name


def test_a_secret_without_a_line_in_the_example_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no line"):
        env.fill("HOST=127.0.0.1\n", fresh_secrets())
    assert env.fill("\nKEY=own\n", {"KEY": "fresh"}) == "\nKEY=own\n"


def options_of(script: str) -> ConnectOptions:
    """Return options that connect as a line of JavaScript does."""
    # {% if cookiecutter.auth == "jwt" %}
    ((uri, subprotocols),) = re.findall(r'^new WebSocket\("(.*)", (\[.*\])\)$', script)
    return ConnectOptions(uri, {"Origin": ORIGIN}, json.loads(subprotocols))
    # {% elif cookiecutter.auth == "session" %}
    line = r'^document\.cookie = "(.*); path=/"; new WebSocket\("(.*)"\)$'
    ((cookie, uri),) = re.findall(line, script)
    return ConnectOptions(uri, {"Origin": ORIGIN, "Cookie": cookie})
    # {% elif cookiecutter.auth == "api_key" %}
    ((uri, options),) = re.findall(r'^new WebSocket\("(.*)", (\{.*\})\)$', script)
    return ConnectOptions(uri, json.loads(options)["headers"])
    # {% else %}
    (uri,) = re.findall(r'^new WebSocket\("(.*)"\)$', script)
    return ConnectOptions(uri, {"Origin": ORIGIN})
    # {% endif %}


async def connect_by_script(
    live: Live, monkeypatch: pytest.MonkeyPatch, printed: pytest.CaptureFixture[str], *words: str
) -> Client:
    """Connect by the line that `make token` prints for a user, or for a user and claims."""
    settings = live.settings.model_copy(update={"port": live.port})
    monkeypatch.setattr(Settings, "load", lambda: settings)
    await token.main(*words)
    return await live.connect_with(options_of(printed.readouterr().out.splitlines()[-1]))


async def test_the_printed_line_of_javascript_connects(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await connect_by_script(live, monkeypatch, capsys, "alice")
    # {% if cookiecutter.auth == "none" %}
    assert client.user.startswith("guest-")
    # {% else %}
    assert client.user == "alice"
    # {% endif %}
# {% if cookiecutter.auth == "jwt" %}


async def test_the_printed_link_opens_the_page_with_the_token(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = live.settings.model_copy(update={"environment": "development"})
    monkeypatch.setattr(Settings, "load", lambda: settings)
    await token.main("alice")
    printed, link, _ = capsys.readouterr().out.splitlines()
    assert link.partition("/#token=")[2] == printed
# {% endif %}
# {% if cookiecutter.auth in ["jwt", "session"] %}


async def test_the_printed_credentials_have_the_claims(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # {% if cookiecutter.auth == "jwt" %}
    claims = {"title": "editor", "sub": "bob"}
    # {% else %}
    claims = {"title": "editor", "user": "bob"}
    # {% endif %}
    client = await connect_by_script(live, monkeypatch, capsys, "alice", json.dumps(claims))
    assert client.user == "alice"
    (connection,) = live.service.manager
    assert connection.identity.claims["title"] == "editor"


@pytest.mark.parametrize("claims", ["editor", '"editor"', "[]", "null"])
def test_claims_that_are_not_an_object_are_refused(claims: str) -> None:
    with pytest.raises(SystemExit, match="not a JSON object"):
        token.parse(claims)
# {% endif %}
# {% if cookiecutter.auth == "jwt" %}


async def test_a_claim_that_no_token_may_have_is_refused(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "load", lambda: live.settings)
    with pytest.raises(SystemExit, match=r"^error: CLAIMS: "):
        await token.main("alice", '{"iss": 5}')
# {% endif %}
# {% if cookiecutter.redis and cookiecutter.auth == "api_key" %}


def test_the_command_for_a_node_names_its_port() -> None:
    assert commands((8000, 8001)) == [
        "PORT=8000 make client NAME=alice",
        "PORT=8001 make client NAME=bob",
    ]
# {% elif cookiecutter.redis %}


def test_the_link_to_a_node_names_the_port_of_the_other() -> None:
    first, second = (url.rpartition(":")[2] for url in links(Settings.load(), (8000, 8001)))
    assert (first, second) == ("8000/#node=8001", "8001/#node=8000")
# {% endif %}


def test_the_protocol_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "asyncapi.json"
    asyncapi.main(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    (server,) = document["servers"].values()
    assert f"http://{server['host']}" == base_url(Settings.load())
    messages = document["channels"]["connection"]["messages"].values()
    assert {"send", "broadcast"} <= {message["name"] for message in messages}
# {% if cookiecutter.rooms %}


def test_the_terminal_client_shows_frames_of_each_type(capsys: pytest.CaptureFixture[str]) -> None:
    for message in (
        Message("message", None, "hi", 1),
        Message("updated", "bob", "away"),
        Message("drawn", data={"room": "hall"}),
    ):
        show_message("hall", message)
    expected = ['hall the backend: "hi"', 'hall bob is now "away"', 'hall drawn: {"room": "hall"}']
    assert capsys.readouterr().out.splitlines() == expected
# {% endif %}
