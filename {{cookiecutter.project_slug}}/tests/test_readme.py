"""What the README shows works."""

import re
from pathlib import Path

import pytest

from app import handlers, policy
from app.commands import CommandRouter

from .live import Live, run_service

README = Path(__file__).parent.parent / "README.md"


def example_with(text: str) -> str:
    """Return the one example that has this in it."""
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (example for example in examples if text in example)
    return str(example)


async def test_the_example_command(monkeypatch: pytest.MonkeyPatch) -> None:
    example = example_with("@router.command")
    router = CommandRouter()
    router.include(handlers.router)
    module = vars(handlers) | {"router": router}
    exec(example, module)  # noqa: S102 - the project's own text
    monkeypatch.setattr("app.main.handlers", router)
    async with run_service() as live:
        speaker = await live.connect("alice")
        listener = await live.connect("bob")
        answer = await speaker.ask(type="shout", text="hey", id="1")
        assert answer == {"type": "ok", "id": "1", "volume": 3}
        assert (await listener.receive("message"))["data"] == "HEY"
        assert (await speaker.ask(type="shout", text=""))["code"] == "forbidden"


async def test_the_example_policy(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    module = dict(vars(policy))
    exec(example_with("def can_send"), module)  # noqa: S102 - the project's own text
    monkeypatch.setattr(policy, "can_send", module["can_send"])
    client = await live.connect("alice")
    company, _, _ = client.user.partition("-")
    assert (await client.ask(type="send", to=f"{company}-bob", data=1))["type"] == "ok"
    assert (await client.ask(type="send", to="acme-bob", data=1))["code"] == "forbidden"
