"""Labels of the metrics have a fixed set of values."""

import re
import secrets
from pathlib import Path

import pytest

import app.realtime
from app.realtime.errors import CommandError, Refused

from .live import Live


def test_every_reason_of_a_refusal_is_known() -> None:
    engine = Path(app.realtime.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in engine.rglob("*.py")]
    raised = {reason for text in texts for reason in re.findall(r'Refused\("(.*?)"', text)}
    assert raised == Refused.REASONS.keys()


async def test_error_codes_defined_at_runtime_are_counted_as_other(live: Live) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise type("MadeUp", (CommandError,), {"code": secrets.token_hex(4)})

    before = live.counts()
    client = await live.connect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.service.backplane, "publish", refuse)
        for _ in range(3):
            assert (await client.ask(type="broadcast", data=1))["type"] == "error"
    errors = {name for name in live.counts() - before if "errors" in name}
    assert errors == {"ws_command_errors_total other"}
