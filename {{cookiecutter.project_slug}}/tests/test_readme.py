"""What the README shows works."""

import re
from pathlib import Path

import pytest

from app import handlers
from app.commands import CommandRouter

from .live import run_service

README = Path(__file__).parent.parent / "README.md"


async def test_the_example_command(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
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
