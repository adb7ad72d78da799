"""The log tells why a token is refused."""

import time

import pytest
from structlog.testing import capture_logs

from app.realtime import Authenticator
from app.realtime.errors import Unauthorized

from ..live import Live, make_settings, run_service
from .test_jwt import OTHER_SECRET, SECRET, anonymous, forged, rejected, token, with_token


async def test_the_log_tells_why_other_tokens_are_refused() -> None:
    settings = make_settings(jwt_secret=SECRET, jwt_audience="chat")
    causes = {
        "nonsense": "DecodeError",
        forged("HS256", OTHER_SECRET): "InvalidSignatureError",
        forged("HS384", SECRET): "InvalidAlgorithmError",
        token(settings, aud="mail"): "InvalidAudienceError",
        token(settings): "the token has no aud",
        token(settings, aud="chat", exp=time.time_ns()): "exp is out of range",
        token(settings, aud="chat", exp=1e300): "exp is out of range",
    }
    for refused, cause in causes.items():
        with pytest.raises(Unauthorized) as refusal:
            await Authenticator(settings).verify(refused)
        assert refusal.value.cause == cause
    async with run_service(settings) as live:
        with capture_logs() as lines:
            assert await rejected(live, anonymous(live))
    assert [line["cause"] for line in lines if "cause" in line] == ["no token"]


async def test_each_cause_of_a_refused_refresh_is_logged_once(live: Live) -> None:
    client = await live.connect_with(with_token(live, token(live.settings)))
    with capture_logs() as lines:
        for exp in (1, None, 1, None):
            refused = token(live.settings, exp=exp)
            assert (await client.ask(type="refresh", token=refused))["code"] == "forbidden"
            assert refused not in str(lines)
    causes = [line["cause"] for line in lines if line["event"] == "token refused"]
    assert causes == ["ExpiredSignatureError", "the token has no exp"]
