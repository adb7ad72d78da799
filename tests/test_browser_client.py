"""The client for pages, in Chromium: it repairs itself, and does not do what users complain of."""

import base64
import hmac
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from .browser import Browser, Page, browser
from .checks.service import Service, running
from .combination import DEFAULT, find
from .conftest import Baker
from .documents import blocks_of
from .invalid_frames import INVALID_ANSWERS, INVALID_FRAMES, INVALID_WELCOMES
from .numbers_room import Numbers, check, numbers, spoil
from .process import check_output, environment
from .project import Project
from .proxy import Proxy

CUTS = 1_000
HASTE = {
    "MAX_HANDSHAKES_PER_S": "100000",
    "MAX_HANDSHAKES_PER_S_PER_ADDRESS": "100000",
    "MAX_MESSAGES_PER_S": "100000",
    "MAX_BYTES_PER_S": "100000000",
    "MAX_MESSAGES_PER_S_PER_USER": "100000",
    "MAX_BYTES_PER_S_PER_USER": "100000000",
    "MAX_BYTES_PER_S_PER_TARGET": "100000000",
}
"""Limits that would be in the way of these tests."""

SCRIPT = """
Object.assign(globalThis, await import("/client/client.js"), { states: [], frames: [], asked: 0 });
globalThis.open_ = (options = {}, url = "/ws") => {
  globalThis.ws = connect(url, { token: () => { asked++; return credentials; }, ...options });
  ws.onstatus = (status) => states.push(status);
  ws.onframe = (direction, text) => frames.push([direction, JSON.parse(text)]);
};
globalThis.only = (wanted) => frames.filter(([way]) => way === wanted).map(([, frame]) => frame);
globalThis.sent = (type) => only("out").filter((frame) => frame.type === type);
globalThis.count = (state) => states.filter((status) => status.state === state).length;
globalThis.spy = () => {
  globalThis.WebSocket = class extends WebSocket {
    constructor(...how) { super(...how); globalThis.socket = this; }
  };
};
globalThis.failure = (promise) => promise.then(() => null, ({ code, retry }) => ({ code, retry }));
"""
EAGER = """
const later = setTimeout;
globalThis.setTimeout = (react, ms) => later(react, ms === 500 ? 1 : ms);
"""
"""Makes the shortest pause before a new attempt, which random numbers of 0 yield, even shorter."""
FAKE = """
globalThis.commands = [];
globalThis.of = (type) => commands.filter((command) => command.type === type);
globalThis.receive = (frame) => socket.onmessage({ data: JSON.stringify(frame) });
globalThis.joined = (id, how = {}) => receive(
  { type: "ok", id, room: "tea", epoch: "e", offset: 0, recovered: null, replayed: 0, ...how });
globalThis.message = (offset) =>
  receive({ type: "message", room: "tea", from: "bob", data: offset, offset });
globalThis.refuse = (id) =>
  receive({ type: "error", id, code: "rate_limited", message: "", retry: true });
globalThis.answer = ({ id }) => joined(id);
globalThis.expires_at = null;
globalThis.limits = { message_bytes: 65_536, messages_per_s: 100, burst_s: 5 };
globalThis.WebSocket = class {
  constructor() {
    globalThis.socket = this;
    const terms = { heartbeat: null, limits, expires_at, ...globalThis.wrong };
    setTimeout(() => receive({ type: "welcome", user: "alice", ...terms }));
  }
  send(text) {
    const command = JSON.parse(text);
    commands.push(command);
    setTimeout(() => this.onmessage && answer(command));
  }
  close() {}
};
"""
"""A server in the page, whose answers a test may replace."""
FOLLOW = """
globalThis.entries = [];
open_();
ws.room("numbers", {
  state: async () => { entries.push(["state", Number(await (await fetch(url)).text())]); },
  message: (number) => entries.push(["message", number]),
});
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running_browser:
        yield running_browser


@contextmanager
def served(baked: Baker, combination: str, **settings: str) -> Iterator[tuple[Service, Proxy]]:
    """Run a service behind a proxy, through which pages come to it."""
    with Proxy().running() as proxy:
        settings = {"ALLOWED_ORIGINS": proxy.origin} | HASTE | settings
        with running(baked(find(combination)), **settings) as service:
            proxy.target = int(service.port)
            yield service, proxy


@pytest.fixture(scope="module")
def behind(request: pytest.FixtureRequest, baked: Baker) -> Iterator[tuple[Service, Proxy]]:
    with served(baked, DEFAULT.id, JWT_LEEWAY_S="0", **getattr(request, "param", {})) as both:
        yield both


def short_heartbeat(test: Callable[..., None], *, timeout_s: int = 5) -> Callable[..., None]:
    """Run a test with a service that soon asks silent clients, and by default soon closes them."""
    settings = {"HEARTBEAT_INTERVAL_S": "0.5", "HEARTBEAT_TIMEOUT_S": str(timeout_s)}
    with_settings = pytest.mark.parametrize("behind", [settings], ids=["short"], indirect=True)
    in_one_worker = pytest.mark.xdist_group("short heartbeat")
    marked: Callable[..., None] = in_one_worker(with_settings(test))
    return marked


@pytest.fixture
def service(behind: tuple[Service, Proxy]) -> Service:
    return behind[0]


@pytest.fixture
def proxy(behind: tuple[Service, Proxy]) -> Iterator[Proxy]:
    proxy = behind[1]
    yield proxy
    proxy.refuses, proxy.budget = False, lambda: None
    proxy.thaw()


@pytest.fixture
def page(chrome: Browser, service: Service, proxy: Proxy) -> Page:
    page = chrome.page(f"{proxy.origin}/livez")
    prepare(page, make_token(service))
    return page


def prepare(page: Page, credentials: str | None) -> None:
    """Give a page the client, credentials, and short pauses."""
    page.run(f"globalThis.credentials = {json.dumps(credentials)}; {SCRIPT} Math.random = () => 0;")


def make_token(service: Service, user: str = "alice", lifetime_s: float = 3600) -> str:
    """Return a JSON Web Token (RFC 7519) that the service accepts."""
    return sign(service.shell(". ./.env; printf %s $JWT_SECRET"), user, lifetime_s)


def sign(secret: str, user: str, lifetime_s: float = 3600) -> str:
    """Return a JSON Web Token that is signed with a secret."""
    claims = {"sub": user, "exp": time.time() + lifetime_s}
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(map(encoded, parts))
    return f"{signed}.{encoded(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def evict(service: Service, user: str, room: str) -> None:
    """Take a user out of a room."""
    body = json.dumps({"user": user, "reason": "spam"})
    service.shell(
        '. ./.env; curl --silent --fail -H "Authorization: Bearer $BACKEND_KEY" '
        f"http://127.0.0.1:{service.port}/rooms/{room}/evict -d '{body}'"
    )


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def test_the_token_is_asked_for_and_awaited_before_every_attempt(
    page: Page, proxy: Proxy, service: Service
) -> None:
    tokens = json.dumps([make_token(service, user) for user in ("alice", "bob")])
    page.run(f"""
      globalThis.tokens = {tokens};
      open_({{ token: () => new Promise((done) => setTimeout(() => done(tokens.shift()), 50)) }});
    """)
    page.wait_until("ws.welcome?.user === 'alice'")
    proxy.cut()
    page.wait_until("ws.welcome?.user === 'bob'")
    assert page.run("return tokens.length") == 0


def test_a_token_that_expires_is_replaced_by_a_fresh_one(page: Page, service: Service) -> None:
    fresh = make_token(service)
    short = make_token(service, lifetime_s=9)  # too short for a refresh
    page.run(f"""
      globalThis.tokens = {json.dumps([short, fresh])};
      open_({{ token: () => {{ asked++; return tokens.shift(); }} }});
    """)
    page.wait_until("count('online') === 2")
    assert page.run("return states.find(({ state }) => state === 'offline').code") == 4005
    assert page.run("return asked") == 2


def test_a_token_is_refreshed_before_it_expires(page: Page, service: Service) -> None:
    page.run("""
      const later = setTimeout;
      globalThis.setTimeout = (react, ms) => later(react, ms > 10_000 ? 10 : ms);
      open_();
    """)
    page.wait_until("only('in').filter(({ expires_at }) => expires_at).length > 2")
    assert page.run("return sent('refresh').length") >= 2
    assert page.run("return asked - sent('refresh').length") <= 2
    assert page.run("return count('online')") == 1


def test_a_token_function_that_fails_at_a_refresh_is_called_again(page: Page) -> None:
    page.run("""
      const later = setTimeout;
      globalThis.setTimeout = (react, ms) => later(react, ms > 10_000 ? 10 : ms);
      const token = () => (++asked === 2 ? Promise.reject("no network") : credentials);
      open_({ token });
    """)
    page.wait_until("only('in').filter(({ expires_at }) => expires_at).length > 1")
    assert page.run("return asked") >= 3
    assert page.run("return sent('refresh').every(({ token }) => token === credentials)")
    assert page.run("return count('online')") == 1


def test_a_token_function_that_fails_is_called_again_and_null_ends_the_client(page: Page) -> None:
    page.run("""
      globalThis.answers = [() => Promise.reject("no network"), () => credentials, () => null];
      open_({ token: () => answers.shift()() });
    """)
    page.wait_until("ws.welcome")
    assert "no network" in page.run("return states[1].reason")
    page.run("dispatchEvent(new Event('pagehide'))")
    page.wait_until("ws.status.state === 'ended'")
    assert page.run("return [ws.status.code, answers.length]") == [4500, 0]


def test_a_refused_token_ends_the_connection(page: Page) -> None:
    page.run("open_({ token: 'nonsense' })")
    page.wait_until("ws.status.state === 'ended'")
    assert page.run("return [ws.status.code, ws.status.attempt]") == [4500, 1]


@pytest.mark.parametrize(
    "moment", ["while the token is fetched", "connecting", "online", "offline"]
)
def test_a_closed_client_stays_closed(page: Page, proxy: Proxy, moment: str) -> None:
    proxy.refuses = moment == "offline"
    page.run(
        "open_({ token: () => new Promise((done) => { asked++; globalThis.answer = done; }) })"
    )
    page.wait_until("asked")
    came = proxy.connections
    reach = ""
    if moment != "while the token is fetched":
        reach = "answer(credentials); await 0;"
    if moment in {"online", "offline"}:
        reach += f"await until(() => ws.status.state === '{moment}');"
    page.run(f"""
      const until = async (isReached) => {{
        while (!isReached()) await new Promise((resolve) => setTimeout(resolve, 5));
      }};
      {reach}
      ws.close();
      answer(credentials);
      const types = ["online", "pageshow", "pagehide", "offline"];
      types.forEach((type) => dispatchEvent(new Event(type)));
      document.dispatchEvent(new Event("visibilitychange"));
      await new Promise((resolve) => setTimeout(resolve, 600));
    """)
    assert page.run("return [ws.status.state, ws.status.code, asked]") == ["ended", 1000, 1]
    assert page.run("return states.at(-1).state") == "ended"
    assert proxy.connections - came <= (moment != "while the token is fetched")
    assert page.run("return failure(ws.request({ type: 'ping' }))") == {
        "code": "ended",
        "retry": False,
    }


def test_a_client_that_is_closed_at_once_never_connects(page: Page, proxy: Proxy) -> None:
    before = proxy.connections
    page.run("open_(); ws.close(); await 0;")
    assert page.run("return [ws.status.state, asked]") == ["ended", 0]
    assert proxy.connections == before


@short_heartbeat
def test_a_silent_server_is_detected_by_the_terms_of_welcome(page: Page, proxy: Proxy) -> None:
    page.run("open_()")
    page.wait_until("ws.welcome")
    proxy.freeze()
    page.wait_until("count('offline') >= 1")
    offline = "states.find(({ state }) => state === 'offline')"
    assert page.run(f"return {offline}.reason") == "the server does not answer"
    assert page.run("return sent('ping').length") >= 1
    proxy.thaw()
    page.wait_until("count('online') >= 2")


@short_heartbeat
def test_a_hidden_page_ignores_silence(page: Page, chrome: Browser, proxy: Proxy) -> None:
    page.run("open_()")
    page.wait_until("ws.welcome")
    front = chrome.page("about:blank")
    page.wait_until("document.hidden")
    proxy.freeze()
    # Far more than the terms allow, by the clock of a page whose timers are not late.
    front.run("await new Promise((resolve) => setTimeout(resolve, 12_000))")
    assert page.run("return [ws.status.state, count('offline')]") == ["online", 0]
    page.call("Page.bringToFront")
    page.wait_until("count('offline') >= 1")
    proxy.thaw()
    page.wait_until("count('online') >= 2")


@partial(short_heartbeat, timeout_s=60)
def test_a_hidden_page_keeps_its_connection(page: Page, chrome: Browser) -> None:
    page.run("open_()")
    page.wait_until("ws.welcome")
    front = chrome.page("about:blank")
    page.wait_until("document.hidden && sent('pong').length >= 4")
    page.call("Page.bringToFront")
    page.wait_until("!document.hidden")
    assert page.run("return states.map(({ state }) => state)") == ["connecting", "online"]
    front.call("Page.close")


@short_heartbeat
def test_after_a_late_timer_it_pings_again(page: Page, proxy: Proxy) -> None:
    """The page slept while it waited for a pong, so the silence does not prove a dead server."""
    page.run("open_()")
    page.wait_until("ws.welcome")
    proxy.freeze()
    page.run("""
      const before = sent("ping").length;
      dispatchEvent(new Event("online"));
      const until = performance.now() + 6_500;
      while (performance.now() < until);
      globalThis.asked = () => sent("ping").length - before;
    """)
    page.wait_until("count('offline') >= 1")
    assert page.run("return asked()") >= 2


@short_heartbeat
def test_a_pong_counts_if_a_coarse_clock_has_not_moved_since_the_ping(page: Page) -> None:
    """Some browsers round the time that pages can measure."""
    page.run("open_()")
    page.wait_until("ws.welcome")
    page.run("const now = performance.now(); performance.now = () => now")
    page.run("dispatchEvent(new Event('online'))")
    page.wait_until("sent('ping').length >= 3 || count('offline')")
    assert page.run("return count('offline')") == 0


def test_it_connects_as_soon_as_the_network_is_back(page: Page, proxy: Proxy) -> None:
    page.run("Math.random = () => 1; open_()")
    page.wait_until("ws.welcome")
    proxy.refuses = True
    network(page, offline=True)
    proxy.cut()
    page.wait_until("count('offline') >= 1")
    # The pause is the longest now, so that only the event can end it.
    page.wait_until("ws.status.pause_ms === 20_000 || !dispatchEvent(new Event('online'))")
    proxy.refuses = False
    network(page, offline=False)
    page.wait_until("ws.status.state === 'online'")


def network(page: Page, *, offline: bool) -> None:
    """Let the browser tell its pages that there is no network, or that there is."""
    page.call("Network.enable")
    page.call(
        "Network.emulateNetworkConditions",
        offline=offline,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    page.wait_until(f"navigator.onLine === {json.dumps(not offline)}")


def test_a_page_comes_back_from_the_back_forward_cache(
    page: Page, proxy: Proxy, service: Service
) -> None:
    page.run("""
      open_();
      addEventListener("pageshow", ({ persisted }) => { globalThis.persisted = persisted; });
      globalThis.got = [];
      ws.room("cache", { message: (data) => got.push(data) });
    """)
    page.wait_until("ws.rooms.get('cache').position")
    page.open(f"{proxy.origin}/readyz")
    with service.client("bob") as bob:
        bob.ask(type="join", room="cache")
        bob.ask(type="publish", room="cache", data="while you were away")
    page.run("history.back()")
    page.wait_until("globalThis.persisted && got.length")
    assert page.run("return got") == ["while you were away"]
    assert page.run("return count('connecting')") == 2


def test_a_revoked_user_does_not_reconnect(page: Page, service: Service) -> None:
    page.run("open_()")
    page.wait_until("ws.welcome")
    service.shell(
        f". ./.env; curl --silent --fail http://127.0.0.1:{service.port}/disconnect"
        """ -H "Authorization: Bearer $BACKEND_KEY" -d '{"user": "alice"}'"""
    )
    page.wait_until("ws.status.state === 'ended'")
    assert page.run("return [ws.status.code, ws.status.reason]") == [4503, "revoked"]


CODES = {
    **dict.fromkeys((1000, 1001, 1011, 1012, 1013, 3000, 4000, 4005, 4013, 4499), "offline"),
    **dict.fromkeys((1002, 1003, 1007, 1009, 4500, 4503, 4509, 4999), "ended"),
}


def test_every_close_code_decides_whether_it_reconnects(page: Page) -> None:
    """The service sends few of these codes on demand, so a fake WebSocket closes with them."""
    page.run(f"""
      globalThis.outcomes = {{}};
      for (const code of {json.dumps(list(CODES))}) {{
        globalThis.WebSocket = class {{
          constructor() {{ setTimeout(() => this.onclose({{ code, reason: "" }})); }}
          close() {{}}
        }};
        open_();
        while (ws.status.code !== code) await new Promise((resolve) => setTimeout(resolve));
        outcomes[code] = ws.status.state;
        ws.close();
      }}
    """)
    assert page.run("return outcomes") == {str(code): state for code, state in CODES.items()}


def test_pauses_are_random_and_grow_to_twenty_seconds(page: Page) -> None:
    shortest, longest = page.run("""
      return [() => 0, () => 1].map((random) => {
        Math.random = random;
        return Array.from({ length: 7 }, (_, attempt) => pause(attempt + 1));
      });
    """)
    assert shortest == [500] * 7
    assert longest == [2_000, 4_000, 8_000, 16_000, 20_000, 20_000, 20_000]


def test_requests_fail_with_a_code_and_never_wait_for_ever(page: Page, proxy: Proxy) -> None:
    page.run("open_()")
    early = page.run("return (await ws.request({ type: 'ping' })).type")  # before the connection
    assert early == "pong"
    assert page.run("return failure(ws.request({ type: 'unheard-of' }))") == {
        "code": "unknown_type",
        "retry": False,
    }
    large = "ws.request({ type: 'send', to: 'bob', data: 'x'.repeat(70_000) })"
    assert page.run(f"return failure({large})") == {"code": "too_large", "retry": False}
    assert page.run("return ws.status.state") == "online"
    proxy.freeze()
    page.run("globalThis.outcome = failure(ws.request({ type: 'ping' }, 20))")
    assert page.run("return outcome") == {"code": "timeout", "retry": True}
    page.run("globalThis.outcome = failure(ws.request({ type: 'ping' }))")
    proxy.cut()
    assert page.run("return outcome") == {"code": "disconnected", "retry": True}


def test_a_handler_may_await_a_request_and_may_throw(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      open_();
      ws.onmessage = async ({ data }) => {
        got.push([data, (await ws.request({ type: "ping" })).type]);
        throw new Error("a mistake of the page");
      };
      ws.room("handlers", {
        state: async () => { got.push((await room.presence()).total); },
        message: async (data) => {
          got.push([data, (await room.publish("again")).type]);
          throw new Error("another one");
        },
      });
      globalThis.room = ws.rooms.get("handlers");
    """)
    page.wait_until("room.position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="handlers")
        for data in (1, 2):
            bob.ask(type="publish", room="handlers", data=data)
            bob.ask(type="send", to="alice", data=data)
    page.wait_until("got.length === 5")
    assert page.run("return got.slice(1).sort()") == [
        [1, "ok"],
        [1, "pong"],
        [2, "ok"],
        [2, "pong"],
    ]
    assert page.run("return ws.status.state") == "online"


def test_messages_wait_for_the_state_and_a_lost_connection_loads_it_again(
    page: Page, proxy: Proxy, service: Service
) -> None:
    page.run("""
      AbortSignal.timeout = () => new AbortController().signal;
      globalThis.got = [];
      open_();
      ws.room("state", {
        state: () => {
          got.push("state");
          return new Promise((done) => { globalThis.loaded = done; });
        },
        message: (data) => got.push(data),
      });
    """)
    page.wait_until("got.length === 1")
    with service.client("bob") as bob:
        bob.ask(type="join", room="state")
        bob.ask(type="publish", room="state", data=1)
        page.wait_until("only('in').some(({ type }) => type === 'message')")
        assert page.run("return [got, ws.rooms.get('state').position]") == [["state"], None]
        proxy.cut()
        page.wait_until("count('online') === 2 && sent('join').length === 2")
        # The first call is still under way: it ends before there is another.
        page.run("await ws.ping(); const first = loaded; first();")
        page.wait_until("got.length === 2")
        bob.ask(type="publish", room="state", data=2)
        page.run("await ws.ping(); loaded()")
        page.wait_until("got.includes(2)")
        assert page.run("return got") == ["state", "state", 2]
        assert page.run("return sent('join').map(({ since }) => since ?? null)") == [None, None]


def test_the_state_is_loaded_again_when_recovery_is_impossible_or_it_has_failed(
    page: Page, proxy: Proxy, service: Service
) -> None:
    page.run("""
      globalThis.got = [];
      globalThis.failures = 0;
      addEventListener("error", () => failures++);
      open_();
      ws.room("gap", {
        state: () => { got.push("state"); if (got.length === 2) throw new Error("no answer"); },
        message: (data) => got.push(data),
      });
    """)
    page.wait_until("ws.rooms.get('gap').position")
    proxy.refuses = True
    proxy.cut()
    with service.client("bob") as bob:
        bob.ask(type="join", room="gap")
        for number in range(150):  # more than the history keeps
            bob.ask(type="publish", room="gap", data=number)
        proxy.refuses = False
        page.wait_until("got.length === 3 && ws.rooms.get('gap').position")
        bob.ask(type="publish", room="gap", data="live")
    page.wait_until("got.includes('live')")
    assert page.run("return [got, failures]") == [["state", "state", "state", "live"], 1]


def test_a_state_that_hangs_is_aborted_and_does_not_hold_the_next_one_up(
    page: Page, proxy: Proxy, service: Service
) -> None:
    page.run("""
      const timeout = AbortSignal.timeout.bind(AbortSignal);
      AbortSignal.timeout = (ms) => timeout(ms / 1_000);
      globalThis.got = [];
      globalThis.signals = [];
      open_();
      ws.room("hangs", {
        state: ({ signal }) => signals.push(signal) === 1 ? new Promise(() => {}) : "loaded",
        message: (data) => got.push(data),
      });
    """)
    page.wait_until("signals.length === 1")
    proxy.cut()
    page.wait_until("ws.rooms.get('hangs').position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="hangs")
        bob.ask(type="publish", room="hangs", data="live")
    page.wait_until("got.length")
    assert page.run("return signals.map(({ aborted }) => aborted)") == [True, False]


def test_a_state_that_ends_when_it_is_aborted_is_no_error(page: Page, proxy: Proxy) -> None:
    page.run("""
      AbortSignal.timeout = () => new AbortController().signal;
      globalThis.errors = 0;
      globalThis.calls = 0;
      addEventListener("error", () => errors++);
      const hang = (signal) => new Promise((_, fail) => {
        signal.onabort = () => fail(signal.reason);
      });
      open_();
      ws.room("ends", { state: ({ signal }) => (calls++ ? "loaded" : hang(signal)) });
    """)
    page.wait_until("calls === 1")
    proxy.cut()
    page.wait_until("ws.rooms.get('ends').position")
    assert page.run("return [calls, errors]") == [2, 0]


def test_ephemeral_messages_wait_for_the_state_in_order(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      open_();
      ws.room("tokens", {
        state: () => new Promise((done) => { globalThis.loaded = done; }),
        message: (data) => got.push(data),
      });
    """)
    page.wait_until("globalThis.loaded")
    with service.client("bob") as bob:
        bob.ask(type="join", room="tokens")
        bob.ask(type="publish", room="tokens", data="begin")
        bob.ask(type="publish", room="tokens", data="token", keep=False)
        bob.ask(type="publish", room="tokens", data="end")
        page.wait_until("only('in').filter(({ type }) => type === 'message').length === 3")
        assert page.run("return got") == []
        page.run("loaded()")
        page.wait_until("got.length === 3")
    assert page.run("return got") == ["begin", "token", "end"]


@pytest.mark.parametrize(
    ("handlers", "recovered", "expected"),
    [
        ("{}", True, [1, None, 2]),
        ("{}", False, [1, None, 2]),
        ("{ state: () => got.push('state') }", True, [1, None, 2]),
        ("{ state: () => got.push('state') }", False, ["state", None]),
    ],
)
def test_ephemeral_messages_wait_for_the_answer_to_a_join(
    page: Page, handlers: str, *, recovered: bool, expected: list[object]
) -> None:
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      open_();
      ws.room("tea", {{ message: (data) => got.push(data), ...{handlers} }});
    """)
    page.wait_until("ws.rooms.get('tea').position")
    page.run(f"""
      got.length = 0;
      globalThis.answer = ({{ id }}) => {{
        for (const offset of [1, null, 2]) message(offset);
        globalThis.early = [...got];
        joined(id, {{ offset: 2, recovered: {json.dumps(recovered)} }});
        message(3);
      }};
      receive({{ type: "resync", room: "tea" }});
    """)
    page.wait_until("got.at(-1) === 3")
    assert page.run("return early") == []
    assert page.run("return got") == [*expected, 3]


def test_a_resync_is_a_join_with_the_position(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      spy();
      open_();
      ws.room("resync", { message: (data) => got.push(data), state: () => got.push("state") });
    """)
    page.wait_until("ws.rooms.get('resync').position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="resync")
        page.run('socket.onmessage({ data: \'{"type": "resync", "room": null}\' })')
        for number in range(5):
            bob.ask(type="publish", room="resync", data=number)
        page.wait_until("got.length === 6")
    page.run("await ws.ping()")
    assert page.run("return got") == ["state", 0, 1, 2, 3, 4]
    assert page.run("return sent('join')[1].since.offset") == 0


def test_messages_held_while_a_join_fails_are_handed_over(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      spy();
      open_();
      ws.room("busy", { message: (data) => got.push(data), state: () => got.push("state") });
    """)
    page.wait_until("ws.rooms.get('busy').position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="busy")
        page.run("""
          const send = socket.send;
          socket.send = (text) => {
            const { type, id } = JSON.parse(text);
            if (type !== "join") return send.call(socket, text);
            globalThis.refuse = () => {
              socket.send = send;
              const error = { type: "error", id, code: "unavailable", message: "", retry: true };
              socket.onmessage({ data: JSON.stringify(error) });
            };
          };
          socket.onmessage({ data: '{"type": "resync", "room": "busy"}' });
        """)
        page.wait_until("globalThis.refuse")
        for number in range(3):
            bob.ask(type="publish", room="busy", data=number)
        page.wait_until("only('in').filter(({ type }) => type === 'message').length === 3")
        page.run("refuse()")
        page.wait_until("got.length === 4")
    assert page.run("return got") == ["state", 0, 1, 2]


def test_messages_of_a_former_membership_do_not_precede_replayed_ones(
    page: Page, service: Service
) -> None:
    page.run("open_(); ws.room('tea')")
    page.wait_until("ws.rooms.get('tea').position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="tea")
        for number in (1, 2):
            bob.ask(type="publish", room="tea", data=number)
    page.run("await ws.rooms.get('tea').leave()")
    page.run("""
      globalThis.got = [];
      const room = ws.room("tea", { last: 2, message: (data) => got.push(data) });
      room.receive({ type: "message", room: "tea", from: "bob", data: 2, offset: 2 });
    """)
    page.wait_until("got.length >= 2")
    page.run("await ws.ping()")
    assert page.run("return got") == [1, 2]


def test_frames_in_the_turn_of_the_answer_to_a_join_come_after_it(page: Page) -> None:
    """Node.js dispatches several frames in one turn."""
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      globalThis.answer = ({{ id }}) => {{
        joined(id, {{ offset: 2, replayed: 2 }});
        message(1);
        message(2);
      }};
      open_();
      ws.room("tea", {{ last: 2, message: (data) => got.push(data) }});
    """)
    page.wait_until("ws.rooms.get('tea').position")
    assert page.run("return got") == [1, 2]


@pytest.mark.parametrize("handler", ["state", "gap"])
def test_messages_dropped_before_a_join_is_answered_are_a_gap(page: Page, handler: str) -> None:
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      open_();
      ws.room("tea", {{ message: (data) => got.push(data), {handler}: () => got.push("gap") }});
    """)
    page.wait_until("ws.rooms.get('tea').position")
    page.run("""
      globalThis.before = got.splice(0);
      globalThis.answer = ({ id }) => {
        for (let at = 1; at <= 10_001; at++) message(at);
        joined(id, { offset: 10_001, recovered: true });
        message(10_002);
      };
      receive({ type: "resync", room: "tea" });
    """)
    page.wait_until("got.at(-1) === 10_002")
    assert page.run("return before") == ["gap"] * (handler == "state")
    assert page.run("return got") == ["gap", 10_002]


def test_messages_dropped_while_the_state_is_loaded_are_a_gap(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      globalThis.loads = 0;
      open_();
      ws.room("tea", {{
        message: (data) => got.push(data),
        state: () => {{
          got.push("state");
          if (loads++) return;
          for (let at = 1; at <= 10_002; at++) message(at);
        }},
      }});
    """)
    page.wait_until("got.at(-1) === 10_002")
    assert page.run("return got") == ["state", "state", 10_002]


def test_a_gap_is_told_to_a_page_without_a_state(page: Page) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.got = [];
      open_();
      ws.room("tea", {{ message: (data) => got.push(data), gap: () => got.push("gap") }});
    """)
    page.wait_until("ws.rooms.get('tea').position")
    for is_gap in (False, True):
        page.run(f"""
          globalThis.answer = ({{ id }}) => {{
            joined(id, {{ recovered: {json.dumps(not is_gap)}, offset: 7 }});
            message(8);
          }};
          ws.rooms.get("tea").position = {{ epoch: "e", offset: 7 }};
          socket.onclose({{ code: 1006, reason: "" }});
        """)
        page.wait_until("got.at(-1) === 8")
        assert page.run("return got.splice(0)") == ["gap"] * is_gap + [8]


def test_an_info_does_not_overtake_the_join_of_its_room(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea')")
    page.wait_until("room.position")
    page.run("""
      globalThis.answer = ({ id }) => {
        const number = of("join").length;
        if (number === 3) room.setInfo("unanswered");
        if (number === 2) refuse(id);
        else joined(id);
        if (number === 2) room.setInfo("refused");
      };
      socket.onclose({ code: 1006, reason: "" });
      await room.setInfo("offline");
    """)
    page.wait_until("of('join').length >= 4")
    page.run("await room.setInfo('joined')")
    infos = page.run("return of('join').slice(1).map(({ info, since }) => [info, Boolean(since)])")
    assert infos[0] == ["offline", True]
    assert infos[1] == ["refused", True]
    assert infos[2:] == [["unanswered", False], ["joined", False]]


def test_an_info_that_is_not_json_is_refused_at_once(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.errors = [];
      const self = {{}};
      self.self = self;
      open_();
      for (const info of [self, 1n, () => {{}}])
        try {{ ws.room("coffee", {{ info }}); }} catch (error) {{ errors.push(error); }}
      globalThis.room = ws.room("tea", {{ info: "good" }});
    """)
    page.wait_until("room.position")
    page.run("await room.setInfo(1n).catch((error) => errors.push(error))")
    assert page.run("return [errors.length, room.info, ws.rooms.size]") == [4, "good", 1]
    assert page.run("return of('join').map(({ room, info }) => [room, info])") == [["tea", "good"]]


def test_an_info_that_changes_while_a_join_is_on_its_way_is_sent(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.answer = () => {{}};
      globalThis.me = {{ status: "here" }};
      open_();
      globalThis.room = ws.room("tea", {{ info: me }});
    """)
    page.wait_until("of('join').length")
    page.run("""
      me.status = "away";
      await room.setInfo(me);
      joined(of("join")[0].id);
    """)
    page.wait_until("of('join').length === 2")
    assert page.run("return of('join')[1].info") == {"status": "away"}


def test_an_info_set_while_a_join_is_on_its_way_is_repeated_if_refused_for_now(page: Page) -> None:
    page.run(f"""
      {FAKE}
      open_();
      globalThis.answer = ({{ id }}) => {{
        const number = of("join").length;
        if (number === 1) room.setInfo("away");
        if (number === 2) refuse(id);
        else joined(id);
      }};
      globalThis.room = ws.room("tea", {{ info: "here" }});
    """)
    page.wait_until("of('join').length === 3")
    infos = page.run("return of('join').map(({ info }) => info)")
    assert infos == ["here", "away", "away"]


def test_an_info_set_while_a_join_is_on_its_way_and_refused_is_not_sent_again(page: Page) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.refusals = [];
      open_();
      globalThis.answer = ({{ id, info }}) => {{
        if (of("join").length === 1) room.setInfo("bad");
        if (info !== "bad" && info !== "worse") return joined(id);
        receive({{ type: "error", id, code: "bad_request", message: "", retry: false }});
      }};
      globalThis.room = ws.room("tea", {{ info: "good", refused: () => refusals.push("join") }});
    """)
    page.wait_until("of('join').length === 2 && room.info === 'good'")
    page.run("""
      const note = () => refusals.push("info");
      await Promise.all(["bad", "worse"].map((info) => room.setInfo(info).catch(note)));
      socket.onclose({ code: 1006, reason: "" });
    """)
    page.wait_until("of('join').length === 5")
    assert page.run("return of('join').at(-1).info") == "good"
    assert page.run("return refusals") == ["info", "info"]


def test_an_info_that_is_refused_at_a_rejoin_does_not_end_the_membership(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea', {{ info: 'good' }})")
    page.wait_until("room.position")
    page.run("""
      const { answer } = globalThis;
      globalThis.answer = (command) => command.info !== "bad" ? answer(command) : receive(
        { type: "error", id: command.id, code: "bad_request", message: "", retry: false });
      socket.onclose({ code: 1006, reason: "" });
      await room.setInfo("bad");
    """)
    page.wait_until("of('join').length === 3 && room.stage === 'in'")
    assert page.run("return of('join').map(({ info }) => info)") == ["good", "bad", "good"]
    assert page.run("return [room.info, ws.rooms.size]") == ["good", 1]


def test_an_info_that_is_refused_is_not_sent_again(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea', {{ info: 'good' }})")
    page.wait_until("room.position")
    page.run("""
      const { answer } = globalThis;
      globalThis.answer = ({ id }) =>
        receive({ type: "error", id, code: "bad_request", message: "", retry: false });
      globalThis.refusal = await room.setInfo("bad").catch(({ code }) => code);
      globalThis.answer = answer;
      socket.onclose({ code: 1006, reason: "" });
    """)
    page.wait_until("of('join').length === 3")
    infos = page.run("return of('join').map(({ info }) => info)")
    assert page.run("return refusal") == "bad_request"
    assert infos == ["good", "bad", "good"]


@pytest.mark.parametrize(
    ("events", "info"),
    [
        ("{ info: 'away' }", None),
        ("{ info: 'away', type: 'joined' }", None),
        ("{ info: '' }", None),
        ("{ info: 'here', type: 'joined' }", "here"),
        ("{ info: 'away', user: 'bob' }", "here"),
        ("{ info: null }", "here"),
        ("{ type: 'left' }", "here"),
        ("{ info: 'away', type: 'own' }", "here"),
    ],
)
def test_a_join_repeats_the_info_unless_another_tab_has_set_one(
    page: Page, events: str, info: str | None
) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea', {{ info: 'here' }})")
    page.wait_until("room.position")
    page.run(f"""
      for (const event of [{events}])
        receive({{ type: "updated", room: "tea", user: "alice", ...event }});
      await room.setInfo(null);
      socket.onclose({{ code: 1006, reason: "" }});
    """)
    page.wait_until("count('online') === 2 && of('join').length === 2")
    assert page.run("return of('join').map(({ info }) => info)") == ["here", info]


@pytest.mark.parametrize("later", [None, "later"])
@pytest.mark.parametrize(
    ("first", "own", "last"),
    [
        ("here", "mine", "mine"),
        ("here", "bad", None),
        ("here", "here", "here"),
        (5, 5, 5),
        ({"status": 1}, {"status": 1}, {"status": 1}),
    ],
)
def test_an_info_that_is_being_set_is_newer_than_another(
    page: Page, first: object, own: object, last: object, later: str | None
) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      open_();
      globalThis.room = ws.room("tea", {{ info: {json.dumps(first)} }});
    """)
    page.wait_until("room.position")
    page.run(f"""
      const {{ answer }} = globalThis;
      const update = (info) => receive({{ type: "updated", room: "tea", user: "alice", info }});
      globalThis.answer = ({{ id, info }}) => {{
        update("theirs");
        if (info !== "bad") return joined(id);
        receive({{ type: "error", id, code: "bad_request", message: "", retry: false }});
      }};
      await room.setInfo({json.dumps(own)}).catch(() => {{}});
      update({json.dumps(later)});
      globalThis.answer = answer;
      socket.onclose({{ code: 1006, reason: "" }});
    """)
    page.wait_until("of('join').length === 3")
    infos = page.run("return of('join').map(({ info }) => info)")
    assert infos == [first, own, None if later else last]


def test_a_room_without_an_info_repeats_none_of_another_tab(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea')")
    page.wait_until("room.position")
    page.run("""
      receive({ type: "updated", room: "tea", user: "alice", info: "theirs" });
      socket.onclose({ code: 1006, reason: "" });
    """)
    page.wait_until("of('join').length === 2")
    assert page.run("return of('join').map(({ info }) => info)") == [None, None]


def test_another_tab_does_not_bring_an_old_info_back(page: Page, service: Service) -> None:
    page.run("""
      open_();
      globalThis.room = ws.room("den", { info: "here", updated: (user, { info }) => got = info });
      globalThis.got = null;
    """)
    page.wait_until("room.position")
    with service.client("alice") as other, service.client("bob") as bob:
        other.ask(type="join", room="den", info="away")
        page.wait_until("got === 'away'")
        page.run("dispatchEvent(new Event('pagehide'))")
        page.wait_until("sent('join').length === 2 && count('online') === 2")
        page.run("await room.presence()")
        bob.ask(type="join", room="den")
        members = bob.ask(type="presence", room="den")["members"]
        assert {member["user"]: member["info"] for member in members}["alice"] == "away"


@pytest.mark.parametrize("code", ["bad_room", "bad_request", "forbidden"])
def test_a_refused_room_sends_one_frame(page: Page, code: str) -> None:
    page.run(f"""
      {FAKE}
      globalThis.codes = [];
      globalThis.answer = ({{ type, id }}) => type === "ping" ? joined(id)
        : receive({{ type: "error", id, code: "{code}", message: "", retry: false }});
      open_();
      const room = ws.room("a b", {{ refused: ({{ code }}) => codes.push(code) }});
      const note = ({{ code }}) => codes.push(code);
      await Promise.all([room.publish(1).catch(note), room.presence().catch(note)]);
      await ws.ping();
    """)
    assert page.run("return commands.map(({ type }) => type)") == ["join", "ping"]
    assert page.run("return codes") == [code] * 3


@pytest.mark.parametrize("first", ["joined", "unavailable"])
def test_a_room_that_may_be_joined_is_left_when_a_join_is_refused(page: Page, first: str) -> None:
    page.run(f"""
      {FAKE}
      const error = {{ type: "error", message: "" }};
      globalThis.answer = ({{ type, id }}) => {{
        if (type !== "join") joined(id);
        else if (of("join").length > 1)
          receive({{ ...error, id, code: "bad_request", retry: false }});
        else if ("{first}" === "unavailable")
          receive({{ ...error, id, code: "unavailable", retry: true }});
        else joined(id);
      }};
      open_();
      globalThis.room = ws.room("tea");
    """)
    page.wait_until("of('join').length")
    page.wait_until("room.stage !== 'joining'")
    page.run("receive({ type: 'resync', room: 'tea' })")
    page.wait_until("of('leave').length")
    assert page.run("return commands.map(({ type }) => type)") == ["join", "join", "leave"]


@pytest.mark.parametrize("end", ["refused", "left"])
def test_a_room_that_was_only_refused_is_not_left(page: Page, end: str) -> None:
    page.run(f"""
      {FAKE}
      globalThis.answer = ({{ type, id }}) => {{
        if (type !== "join") joined(id);
        else if (of("join").length === 1) refuse(id);
        else receive({{ type: "error", id, code: "bad_room", message: "", retry: false }});
      }};
      globalThis.answered = () => only("in").filter(({{ type }}) => type === "error").length;
      open_();
      globalThis.room = ws.room("a b");
    """)
    page.wait_until(f"answered() === {2 if end == 'refused' else 1}")
    page.run("await room.leave(); await ws.ping();")
    joins = ["join"] * (2 if end == "refused" else 1)
    assert page.run("return commands.map(({ type }) => type)") == [*joins, "ping"]


def test_ten_rooms_with_invalid_names_do_not_end_the_connection(page: Page) -> None:
    page.run("globalThis.codes = []; open_(); globalThis.good = ws.room('good');")
    page.wait_until("good.position")
    page.run("""
      for (let number = 0; number < 10; number++)
        ws.room(`team ${number}`, { refused: ({ code }) => codes.push(code) });
    """)
    page.wait_until("codes.length === 10")
    page.run("await ws.ping()")
    assert page.run("return [ws.status.state, count('offline')]") == ["online", 0]
    assert page.run("return sent('leave').length") == 0
    assert page.run("return codes.every((code) => code === 'bad_room')")


FRAMES = {name: json.dumps(text) for name, text in INVALID_FRAMES.items()}
FRAMES["bytes"] = 'new Blob([\'{ "type": "new" }\'])'


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_after_an_invalid_frame_it_connects_again(page: Page, frame: str) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.uncaught = [];
      addEventListener("error", ({{ message }}) => uncaught.push(message));
      addEventListener("unhandledrejection", ({{ reason }}) => uncaught.push(`${{reason}}`));
      globalThis.got = [];
      open_();
      ws.onframe = () => {{}};
      globalThis.room = ws.room("tea", {{ message: (data) => got.push(data) }});
      ws.onmessage = (data) => got.push(data);
    """)
    page.wait_until("room.position")
    page.run(f"socket.onmessage({{ data: {frame} }})")
    page.wait_until("count('online') === 2 && of('join').length === 2")
    assert page.run("return states.find(({ state }) => state === 'offline').code") == 1006
    assert page.run("return [got, uncaught]") == [[], []]


@pytest.mark.parametrize("wrong", INVALID_ANSWERS, ids=str)
def test_after_an_invalid_answer_it_connects_again(page: Page, wrong: dict[str, object]) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.answer = ({{ id }}) => joined(id, {json.dumps(wrong)});
      open_();
      globalThis.room = ws.room("tea");
    """)
    page.wait_until("count('offline') >= 1")
    page.run("globalThis.answer = ({ id }) => joined(id)")
    page.wait_until("room.position?.epoch === 'e'")
    assert page.run("return ws.rooms.size") == 1


@pytest.mark.parametrize("wrong", INVALID_WELCOMES, ids=str)
def test_after_an_invalid_welcome_the_pause_grows(page: Page, wrong: dict[str, object]) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      const now = performance.now.bind(performance);
      performance.now = () => now() + 30_000;
      globalThis.wrong = {json.dumps(wrong)};
      open_();
    """)
    page.wait_until("count('offline') >= 3")
    attempts = page.run("return states.filter(({ code }) => code).map(({ attempt }) => attempt)")
    assert attempts[:3] == [1, 2, 3]
    assert page.run("return count('online')") == 0
    page.run("wrong = {}")
    page.wait_until("count('online') === 1")


@pytest.mark.parametrize("expires_at", ["undefined", "null", "'soon'", "NaN"])
def test_a_refresh_answered_without_expiry_keeps_the_old_one(page: Page, expires_at: str) -> None:
    page.run(f"""
      {FAKE}
      const [start, now] = [setTimeout, Date.now()];
      Date.now = () => now;
      globalThis.delays = [];
      globalThis.setTimeout = (react, ms) => {{
        const isRefresh = react.constructor.name === "AsyncFunction";
        if (isRefresh) delays.push(Math.round(ms));
        return start(react, isRefresh && delays.length < 4 ? 1 : ms);
      }};
      globalThis.expires_at = now / 1_000 + 100;
      globalThis.answer = ({{ id }}) => receive({{ type: "ok", id, expires_at: {expires_at} }});
      open_();
    """)
    page.wait_until("delays.length === 4")
    assert page.run("return delays") == [75_000] * 4


def test_a_token_function_may_take_longer_than_an_attempt(page: Page) -> None:
    page.run(f"""
      {FAKE}
      const start = setTimeout;
      globalThis.setTimeout = (react, ms) => start(react, ms === 10_000 ? 1 : ms);
      open_({{ token: () => new Promise((done) => {{ asked++; globalThis.signIn = done; }}) }});
    """)
    page.wait_until("asked")
    # A request that is asked for later has the time limit of an attempt.
    assert page.run("return failure(ws.request({ type: 'ping' }))") == {
        "code": "timeout",
        "retry": True,
    }
    assert page.run("return [asked, ws.status.state]") == [1, "connecting"]
    page.run("signIn(credentials)")
    page.wait_until("count('online') === 1")
    assert page.run("return [asked, count('offline')]") == [1, 0]


def test_when_the_network_is_back_a_token_is_asked_for_again(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.answers = [];
      open_({{ token: () => new Promise((done) => answers.push(done)) }});
    """)
    page.wait_until("answers.length === 1")
    page.run("dispatchEvent(new Event('online'))")
    page.wait_until("answers.length === 2")
    page.run("answers[0](null); await 0; answers[1](credentials);")
    page.wait_until("count('online') === 1")
    assert page.run("return [count('offline'), count('ended')]") == [0, 0]


def test_a_request_that_is_open_at_the_end_fails_with_the_reason(page: Page) -> None:
    page.run(
        "open_(); globalThis.end = ws.request({ type: 'ping' }).catch(({ message }) => message)"
    )
    page.run("ws.close()")
    assert page.run("return end") == "closed by the client"


def test_a_leave_that_is_refused_for_good_is_not_repeated(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea')")
    page.wait_until("room.position")
    page.run("""
      globalThis.answer = ({ id }) =>
        receive({ type: "error", id, code: "internal", message: "", retry: false });
      globalThis.refusal = await room.leave().catch(({ code }) => code);
    """)
    assert page.run("return [refusal, ws.left.size]") == ["internal", 0]


ENDS = {
    "evicted": "receive({ type: 'evicted', room: 'tea', reason: null });",
    "left": "await room.leave();",
    "refused": """
      globalThis.answer = ({ id }) =>
        receive({ type: "error", id, code: "forbidden", message: "", retry: false });
      receive({ type: "resync", room: "tea" });
      while (ws.rooms.size) await new Promise((resolve) => setTimeout(resolve));
    """,
}


@pytest.mark.parametrize("end", ENDS)
def test_an_info_of_a_room_that_is_not_joined_is_only_stored(page: Page, end: str) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea')")
    page.wait_until("room.position")
    page.run(f"""
      {ENDS[end]}
      globalThis.before = of("join").length;
      await room.setInfo("away");
      globalThis.answer = ({{ id }}) => joined(id);
      await ws.ping();
    """)
    assert page.run("return [of('join').length - before, room.info]") == [0, "away"]
    # The name is free, and what becomes of the old room does not touch the new one.
    page.run("globalThis.fresh = ws.room('tea'); await room.leave(); await ws.ping();")
    assert page.run("return ws.rooms.get('tea') === fresh && of('leave').length") == 1


def test_a_resync_without_a_room_is_for_all_rooms_and_is_handed_over(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      open_();
      ws.onmessage = ({{ room }}) => got.push(room);
      for (const name of ["tea", "milk"]) ws.room(name);
    """)
    page.wait_until("[...ws.rooms.values()].every(({ position }) => position)")
    page.run("receive({ type: 'resync', room: 'attic' }); await ws.ping(); await ws.ping();")
    assert page.run("return [got, of('join').length]") == [["attic"], 2]
    page.run("receive({ type: 'resync', room: null })")
    page.wait_until("of('join').length === 4")
    assert page.run("return got") == ["attic", None]


def test_messages_in_flight_after_a_leave_are_dropped(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      open_();
      ws.onmessage = ({{ data }}) => got.push(data);
      globalThis.room = ws.room("tea");
    """)
    page.wait_until("room.position")
    page.run("""
      globalThis.answer = ({ type, id }) => {
        if (type === "leave") message(1);
        joined(id);
        if (type === "join") message(2);
      };
      await room.leave();
      await ws.request({ type: "join", room: "tea" }); // by hand
      await ws.ping();
    """)
    assert page.run("return got") == [2]


def test_a_connection_that_has_lasted_resets_the_limit_to_two_seconds(page: Page) -> None:
    page.run(f"""
      {FAKE}
      Math.random = () => 1;
      globalThis.later = 0;
      const now = performance.now.bind(performance);
      performance.now = () => now() + later;
      open_();
    """)
    page.wait_until("ws.welcome")
    for number, pause_ms in enumerate((2_000, 4_000), start=1):
        page.run("socket.onclose({ code: 1006, reason: '' }); dispatchEvent(new Event('online'))")
        page.wait_until(f"count('online') === {number + 1}")
        assert page.run("return states.findLast((each) => each.pause_ms).pause_ms") == pause_ms
    lasted = "later = 21_000; socket.onclose({ code: 1012, reason: '' })"
    assert page.run(f"{lasted}; return [ws.status.pause_ms, ws.status.attempt]") == [2_000, 1]


def test_a_token_function_that_returns_no_text_is_called_again(page: Page) -> None:
    page.run("""
      globalThis.answers = [undefined, { token: "?" }, credentials];
      open_({ token: () => answers.shift() });
    """)
    page.wait_until("ws.welcome")
    reasons = page.run("return states.flatMap(({ reason }) => reason ?? [])")
    assert len(reasons) == 2
    assert all(reason.startswith("TypeError: the token is not") for reason in reasons)


def test_the_reason_does_not_have_the_token(page: Page) -> None:
    page.run("""
      globalThis.answers = ["secret\\n", "secret key", ["secret"], credentials];
      open_({ token: () => answers.shift() });
    """)
    page.wait_until("ws.welcome")
    reasons = page.run("return states.flatMap(({ reason }) => reason ?? [])")
    assert len(reasons) == 3
    assert not any("secret" in reason for reason in reasons)


def test_a_lone_surrogate_is_refused_before_it_is_sent(page: Page) -> None:
    """Cutting a text may cut a surrogate pair. `JSON.stringify` escapes that; servers refuse it."""
    page.run("""
      open_();
      globalThis.half = "😀".slice(0, 1);
      globalThis.send = (data) => ws.request({ type: "send", to: "alice", data });
      ws.room("halves", { info: half, refused: ({ code }) => { globalThis.refused = code; } });
    """)
    page.wait_until("globalThis.refused")
    error = {"code": "bad_request", "retry": False}
    for data in ("half", "{ [half]: 1 }", '["\\\\" + half]', '"😀".slice(1)'):
        assert page.run(f"return failure(send({data}))") == error
    for data in ('"😀"', '"\\\\ud83d"', '"\\\\\\\\ud83d"'):  # with backslashes of its own
        assert page.run(f"return (await send({data})).type") == "ok"
    assert page.run("return [refused, sent('send').length]") == ["bad_request", 3]


def test_a_timeout_without_end_is_the_longest(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.timers = [];
      const start = setTimeout;
      globalThis.setTimeout = (react, ms) => {{ timers.push(ms); return start(react, ms); }};
      open_();
      await ws.request({{ type: "ping" }}, Infinity);
    """)
    assert page.run("return Math.max(...timers.filter(Number))") == 2**31 - 1


@pytest.mark.parametrize("left_s", [-3_600, 5])
def test_a_clock_that_is_ahead_makes_refreshes_rarer(page: Page, left_s: int) -> None:
    page.run(f"""
      {FAKE}
      const [start, now] = [setTimeout, Date.now];
      globalThis.delays = [];
      globalThis.setTimeout = (react, ms) => {{
        const isRefresh = ms >= 10_000 && ms % 10_000 === 0; // or a request
        if (isRefresh && ms > 10_000) delays.push(ms);
        return start(react, isRefresh && delays.length < 4 ? 100 : ms);
      }};
      Date.now = () => now() + 2 * 3_600_000;
      globalThis.answer = ({{ id }}) =>
        receive({{ type: "ok", id, expires_at: Date.now() / 1_000 + {left_s} }});
      globalThis.expires_at = Date.now() / 1_000 + {left_s};
      open_();
    """)
    page.wait_until("delays.length === 4")
    assert page.run("return delays") == [20_000, 40_000, 80_000, 160_000]


def test_a_short_token_is_refreshed_in_time_again_and_again(page: Page) -> None:
    page.run(f"""
      {FAKE}
      const start = setTimeout;
      const now = Date.now();
      Date.now = () => now;
      globalThis.delays = [];
      globalThis.setTimeout = (react, ms) => {{
        const isRefresh = react.constructor.name === "AsyncFunction";
        if (isRefresh) delays.push(ms);
        return start(react, isRefresh ? 1 : ms);
      }};
      globalThis.expires_at = now / 1_000 + 12;
      globalThis.answer = ({{ id }}) => receive({{ type: "ok", id, expires_at }});
      open_();
    """)
    page.wait_until("delays.length >= 3")
    assert page.run("return delays.slice(0, 3)") == [10_000] * 3


def test_an_answer_ends_the_timer_of_its_request(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.waiting = new Set();
      const [start, stop] = [setTimeout, clearTimeout];
      globalThis.setTimeout = (react, ms) => {{
        const timer = start(react, ms);
        if (ms === 12_345) waiting.add(timer);
        return timer;
      }};
      globalThis.clearTimeout = (timer) => {{ waiting.delete(timer); stop(timer); }};
      open_();
      await ws.request({{ type: "ping" }}, 12_345);
      globalThis.answer = () => {{}};
      globalThis.outcome = failure(ws.request({{ type: "ping" }}, 12_345));
    """)
    assert page.run("return waiting.size") == 1
    page.run("ws.close()")
    assert page.run("return [waiting.size, (await outcome).code]") == [0, "disconnected"]


def test_a_leave_that_is_refused_for_now_is_repeated(page: Page) -> None:
    page.run(f"{EAGER} {FAKE} open_(); globalThis.room = ws.room('tea')")
    page.wait_until("room.position")
    page.run("""
      globalThis.answer = ({ type, id }) =>
        type === "leave" && of("leave").length < 3 ? refuse(id) : joined(id);
      await room.leave();
    """)
    assert page.run("return of('leave').length") == 3
    page.run("""
      globalThis.answer = ({ type, id }) => (type === "leave" ? refuse(id) : joined(id));
      const leaving = ws.room("tea").leave();
      ws.room("tea");
      await leaving;
    """)
    assert page.run("return of('leave').length") == 4


LEAVES = {
    "after the state": (
        "state: () => { message(1); message(2); }, message: leave",
        "",
    ),
    "after a join": (
        "message: leave, rejoined: () => got.push('rejoined')",
        "message(1); message(null); joined(id, { offset: 2, recovered: true });",
    ),
    "at a gap": (
        "message: (data) => got.push(data), gap: leave, rejoined: () => got.push('rejoined')",
        "message(1); joined(id, { offset: 2, recovered: false });",
    ),
}


@pytest.mark.parametrize("how", ["room.leave()", "ws.close()"])
@pytest.mark.parametrize("moment", LEAVES)
def test_nothing_is_handed_over_after_a_handler_has_left(page: Page, moment: str, how: str) -> None:
    handlers, answer = LEAVES[moment]
    page.run(f"""
      {FAKE}
      globalThis.got = [];
      const leave = (data) => {{ got.push(data ?? "gap"); {how}; }};
      open_();
      globalThis.room = ws.room("tea", {{ {handlers} }});
    """)
    if answer:
        page.wait_until("room.position")
        page.run(f"""
          globalThis.answer = ({{ type, id }}) => {{
            if (type === "join") {{ {answer} }}
            else joined(id);
          }};
          receive({{ type: "resync", room: "tea" }});
        """)
    page.wait_until("got.length")
    page.run("await new Promise((resolve) => setTimeout(resolve))")
    assert page.run("return got") == ["gap" if moment == "at a gap" else 1]


def test_a_handler_may_close_the_connection_at_any_frame(page: Page) -> None:
    page.run(f"""
      {FAKE}
      globalThis.refusals = 0;
      open_();
      ws.room("tea", {{ refused: () => refusals++ }});
      const {"{ onframe }"} = ws;
      globalThis.closeAt = (wanted) => {{
        ws.onframe = (direction, text) => {{
          onframe(direction, text);
          if (JSON.parse(text).type === wanted) ws.close();
        }};
      }};
      closeAt("welcome");
    """)
    page.wait_until("ws.status.state === 'ended'")
    page.run("await new Promise((resolve) => setTimeout(resolve))")
    assert page.run("return states.map(({ state }) => state).at(-1)") == "ended"
    page.run("""
      open_();
      ws.room("tea", { refused: () => refusals++ });
      ws.room("milk", { refused: () => refusals++ });
      ws.onmessage = () => ws.close();
    """)
    page.wait_until("[...ws.rooms.values()].every(({ position }) => position)")
    page.run("""
      receive({ type: "resync", room: null });
      await new Promise((resolve) => setTimeout(resolve, 10));
    """)
    assert page.run("return [ws.status.state, refusals]") == ["ended", 0]
    page.run("""
      commands.length = 0;
      open_();
      for (const name of ["tea", "milk"]) ws.room(name, { refused: () => refusals++ });
      closeAt("join");
    """)
    page.wait_until("ws.status.state === 'ended'")
    page.run("await new Promise((resolve) => setTimeout(resolve, 10))")
    assert page.run("return [of('join').length > 0, refusals]") == [True, 0]


def test_a_room_after_the_end_is_refused(page: Page) -> None:
    page.run(f"{FAKE} open_(); ws.close();")
    assert page.run("return failure((async () => ws.room('tea'))())") == {
        "code": "ended",
        "retry": False,
    }
    assert page.run("return ws.rooms.size") == 0


def test_many_rooms_are_joined_within_the_budget(baked: Baker, chrome: Browser) -> None:
    settings = {"MAX_MESSAGES_PER_S": "20", "MAX_BURST_S": "1"}
    with served(baked, DEFAULT.id, **settings) as (service, proxy):
        page = chrome.page(f"{proxy.origin}/livez")
        prepare(page, make_token(service))
        page.run("""
          open_();
          for (let number = 0; number < 80; number++) ws.room(`room-${number}`);
        """)
        page.wait_until("[...ws.rooms.values()].every(({ position }) => position)")
        assert page.run("return [ws.rooms.size, states.length]") == [80, 2]
        page.run("dispatchEvent(new Event('pagehide'))")
        page.wait_until("count('online') === 2")
        page.run("globalThis.joins = () => only('in').filter(({ epoch }) => epoch).length")
        page.wait_until("joins() === 160")
        assert page.run("return count('online')") == 2


def test_joins_and_what_waits_for_them_are_sent_in_turn(page: Page) -> None:
    page.run(f"""
      {FAKE}
      limits.messages_per_s = 12;
      limits.burst_s = 1;
      globalThis.answer = () => {{}};
      open_();
      for (const name of "abcdefgh") ws.room(name);
      ws.rooms.get("h").publish("after the join").catch(() => {{}});
      ws.rooms.get("a").publish("after the first join").catch(() => {{}});
      ws.request({{ type: "ping" }}).catch(() => {{}});
    """)
    page.wait_until("of('ping').length")
    assert page.run("return of('join').map(({ room }) => room).join('')") == "abc"
    assert page.run("return of('publish')") == []
    page.run("""
      globalThis.ids = of("join").map(({ id }) => id);
      joined(ids[0]);
      refuse(ids[1]);
      ws.rooms.get("d").leave().catch(() => {});
    """)
    assert page.run("return of('join').map(({ room }) => room).join('')") == "abcde"
    assert page.run("return of('publish').map(({ room }) => room)") == ["a"]
    page.run("globalThis.answer = ({ type, id }) => type === 'join' && joined(id); joined(ids[2]);")
    page.wait_until("of('publish').length === 2")
    types = page.run("return commands.filter(({ room }) => room === 'h').map(({ type }) => type)")
    assert types == ["join", "publish"]


def test_a_room_that_is_not_available_does_not_hold_others_up(page: Page) -> None:
    page.run(f"""
      {FAKE}
      limits.messages_per_s = 1;
      globalThis.answer = ({{ type, room, id }}) => room === "tea"
        ? receive({{ type: "error", id, code: "unavailable", message: "", retry: true }})
        : joined(id);
      open_();
      for (const name of ["tea", "milk"]) ws.room(name);
    """)
    page.wait_until("ws.rooms.get('milk').position")
    page.run("globalThis.answer = ({ id }) => joined(id)")
    page.wait_until("ws.rooms.get('tea').position")


@pytest.mark.parametrize("code", ["unavailable", "rate_limited"])
def test_requests_in_a_room_wait_while_its_join_is_refused_for_now(page: Page, code: str) -> None:
    page.run(f"""
      {FAKE}
      globalThis.answer = () => {{}};
      globalThis.got = [];
      open_();
      globalThis.room = ws.room("tea", {{
        last: 1,
        message: (data) => {{ got.push(data); room.publish("from the handler"); }},
      }});
      room.publish("early").catch(() => {{}});
    """)
    page.wait_until("of('join').length === 1")
    page.run(f"""
      receive({{ type: "error", id: of("join")[0].id, code: "{code}", message: "", retry: true }});
      room.publish("later").catch(() => {{}});
      ws.request({{ type: "ping" }}).catch(() => {{}});
    """)
    page.wait_until("of('join').length === 2 && of('ping').length")
    assert page.run("return of('publish')") == []
    page.run("""
      message(1);
      joined(of("join")[1].id, { offset: 1 });
    """)
    page.wait_until("got.length")
    published = page.run("return of('publish').map(({ data }) => data)")
    assert published == ["early", "later", "from the handler"]


@pytest.mark.parametrize("limits", ["{ burst_s: 5 }", "{ messages_per_s: 0, burst_s: 5 }"])
def test_rooms_join_one_by_one_if_the_limits_are_unknown(page: Page, limits: str) -> None:
    page.run(f"""
      {FAKE}
      delete limits.messages_per_s;
      Object.assign(limits, {limits});
      open_();
      for (const name of "abc") ws.room(name);
    """)
    page.wait_until("[...ws.rooms.values()].every(({ position }) => position)")
    assert page.run("return of('join').map(({ room }) => room).join('')") == "abc"


def test_a_room_that_is_left_before_its_join_is_sent_sends_no_leave(page: Page) -> None:
    page.run(f"""
      {FAKE}
      limits.messages_per_s = 1;
      globalThis.answer = () => {{}};
      open_();
      for (const name of ["tea", "milk"]) ws.room(name);
    """)
    page.wait_until("of('join').length")
    assert page.run("return await ws.rooms.get('milk').leave()") is None
    page.run("ws.rooms.get('tea').leave().catch(() => {}); ws.room('milk');")
    page.wait_until("of('join').length === 2")
    page.run("ws.rooms.get('milk').leave().catch(() => {})")
    assert page.run("return of('leave').map(({ room }) => room)") == ["tea", "milk"]


def test_a_leave_is_repeated_until_the_next_join_of_the_room_is_sent(page: Page) -> None:
    page.run(f"""
      {FAKE}
      limits.messages_per_s = 1;
      open_();
      globalThis.room = ws.room("tea");
    """)
    page.wait_until("room.position")
    page.run("""
      globalThis.answer = ({ type, id }) => {
        if (type === "leave") of("leave").length < 2 ? refuse(id) : joined(id);
      };
      ws.room("milk"); // its join is not answered: others wait
      globalThis.leaving = room.leave();
      const second = ws.room("tea");
      await second.leave();
      await leaving;
    """)
    assert page.run("return commands.map(({ type, room }) => `${type} ${room}`)") == [
        "join tea",
        "join milk",
        "leave tea",
        "leave tea",
    ]


def test_a_room_tells_that_it_was_joined_again(page: Page) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.calls = 0;
      open_();
      globalThis.room = ws.room("tea", {{ rejoined: () => calls++ }});
    """)
    page.wait_until("room.position")
    assert page.run("return calls") == 0
    page.run("socket.onclose({ code: 1006, reason: '' })")
    page.wait_until("calls === 1")
    page.run("receive({ type: 'resync', room: null })")
    page.wait_until("calls === 2")
    assert page.run("return of('join').length") == 3


def test_a_lost_connection_leaves_no_timer_behind(page: Page) -> None:
    page.run(f"""
      {EAGER} {FAKE}
      globalThis.waiting = new Set();
      const [start, stop] = [setTimeout, clearTimeout];
      globalThis.setTimeout = (react, ms) => {{
        const timer = start(react, ms);
        if (ms > 60_000) waiting.add(timer);
        return timer;
      }};
      globalThis.clearTimeout = (timer) => {{ waiting.delete(timer); stop(timer); }};
      globalThis.expires_at = Date.now() / 1_000 + 3_600;
      open_();
    """)
    for number in (1, 2):
        page.wait_until(f"count('online') === {number}")
        assert page.run("return waiting.size") == 1
        page.run("socket.onclose({ code: 1006, reason: '' })")
    page.run("ws.close()")
    assert page.run("return waiting.size") == 0


@pytest.mark.parametrize("name", ["null", "undefined", "''", "5", "['tea']", "{}"])
def test_a_room_without_a_name_is_refused_at_once(page: Page, name: str) -> None:
    page.run("open_()")
    page.wait_until("ws.welcome")
    refused = {"code": "bad_room", "retry": False}
    assert page.run(f"return failure((async () => ws.room({name}))())") == refused
    assert page.run("return (await ws.room('tea').publish(1)).type") == "ok"
    assert page.run("return ws.rooms.size") == 1


def test_a_room_that_may_not_be_joined_says_so(page: Page) -> None:
    page.run("open_(); ws.room('?', { refused: ({ code }) => { globalThis.code = code; } })")
    page.wait_until("globalThis.code")
    assert page.run("return code") == "bad_room"


def test_presence_and_the_events_of_members(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      open_();
      globalThis.room = ws.room("hall", {
        joined: (user) => got.push(["joined", user]),
        left: (user) => got.push(["left", user]),
        message: (data, { from, offset }) => got.push([data, from, offset]),
      });
    """)
    page.wait_until("room.position")
    with service.client("bob") as bob:
        bob.ask(type="join", room="hall")
        bob.ask(type="publish", room="hall", data="hi")
        page.wait_until("got.length === 2")
        members = page.run("return (await room.presence()).members")
        assert sorted(member["user"] for member in members) == ["alice", "bob"]
        bob.ask(type="leave", room="hall")
    page.wait_until("got.length === 3")
    assert page.run("return got") == [["joined", "bob"], ["hi", "bob", 1], ["left", "bob"]]
    assert page.run("return (await room.publish('bye', { echo: true })).offset") == 2
    page.run("await room.leave()")
    assert page.run("return failure(room.publish('?'))") == {"code": "not_joined", "retry": False}


def test_infos_are_told_and_an_eviction_ends_a_room(page: Page, service: Service) -> None:
    page.run("""
      globalThis.got = [];
      const note = (user, { type, info }) => got.push([type, user, info]);
      open_();
      globalThis.room = ws.room("hall", {
        info: { name: "Alice" }, joined: note, updated: note, left: note,
        evicted: (reason) => got.push(["evicted", reason]),
      });
    """)
    page.wait_until("room.position")
    page.run("await room.setInfo({ name: 'Alice', status: 'away' })")
    with service.client("bob") as bob:
        bob.ask(type="join", room="hall", info="here")
        members = bob.ask(type="presence", room="hall")["members"]
        infos = {member["user"]: member["info"] for member in members}
        assert infos == {"alice": {"name": "Alice", "status": "away"}, "bob": "here"}
        bob.ask(type="join", room="hall", info="there")
        page.wait_until("got.length === 2")
        evict(service, "alice", "hall")
        page.wait_until("got.length === 3")
        assert bob.receive("left")["user"] == "alice"
    told = [["joined", "bob", "here"], ["updated", "bob", "there"], ["evicted", "spam"]]
    assert page.run("return got") == told
    assert page.run("return ws.rooms.size") == 0


def test_frames_of_the_team_are_handed_over_in_their_room(page: Page) -> None:
    page.run("""
      globalThis.got = [];
      spy();
      open_();
      globalThis.room = ws.room("hall", { last: 1, frame: (frame) => got.push(frame) });
    """)
    page.wait_until("room.position")
    frame = {"type": "last", "room": "hall", "offset": 1}  # no name of a handler confuses it
    late = {"type": "ok", "id": "999", "room": "hall"}  # the answer to a join that has timed out
    for each in (late, frame):
        page.run(f"socket.onmessage({{ data: {json.dumps(json.dumps(each))} }})")
    assert page.run("return got") == [frame]


def test_nothing_is_lost_silently_over_a_thousand_cuts(
    page: Page, proxy: Proxy, service: Service
) -> None:
    with numbers() as room:
        with room.published(service):
            page.run(f"globalThis.url = {json.dumps(room.url)}; {EAGER} {FOLLOW}")
            page.wait_until("entries.length > 1")
            spoil(proxy, room, CUTS)
        check_page(page, room)
    assert page.run("return entries.filter(([kind]) => kind === 'state').length") >= 5
    # Other joins had from the history what was missed.
    assert page.run("return only('in').filter(({ recovered }) => recovered).length") > 0


def check_page(page: Page, room: Numbers) -> None:
    """Check what the page got, when it has got the last number."""
    page.wait_until(f"Math.max(...entries.map(([, number]) => number)) === {room.last}")
    check(((kind, number) for kind, number in page.run("return entries")), room.last)


def test_it_moves_from_a_service_that_drains_or_dies_to_another(
    baked: Baker, chrome: Browser, tmp_path: Path
) -> None:
    settings = HASTE | {"JWT_SECRET": "jwt-secret" * 4, "BACKEND_KEY": "backend-key" * 3}
    with Proxy().running() as proxy, numbers() as room, ExitStack() as stack:
        services = [
            Service(baked(DEFAULT).copy(tmp_path / name), ALLOWED_ORIGINS=proxy.origin, **settings)
            for name in ("drains", "dies", "stays")
        ]
        for service in services:
            stack.callback(service.end)
            service.wait_until_ready()
        proxy.target = int(services[0].port)
        page = chrome.page(f"{proxy.origin}/livez")
        prepare(page, sign(settings["JWT_SECRET"], "alice"))
        page.run(f"globalThis.url = {json.dumps(room.url)}; {FOLLOW}")
        for number, service in enumerate(services, start=1):
            page.wait_until(f"count('online') === {number} && ws.rooms.get('numbers').position")
            with service.client("bob") as bob:
                bob.ask(type="join", room="numbers")
                room.publish(bob, 5)
            page.wait_until(f"entries.at(-1)[1] === {room.last}")
            if number < len(services):
                proxy.target = int(services[number].port)
                (service.stop if number == 1 else service.end)()
        codes = page.run("return states.filter(({ code }) => code).map(({ code }) => code)")
        assert codes == [1012, 1006]
        check_page(page, room)


STYLES = {
    "ticket-redis": """async () => (await (await fetch("/tickets", {
        method: "POST",
        headers: { Authorization: `Bearer ${key}` },
        body: '{"user": "alice"}',
      })).json()).ticket""",
    "session-rooms": """() => fetch("/login", { method: "POST", body: '{"user": "alice"}' })""",
    "none": "undefined",
}
"""Combinations, and how a page gets its credentials."""


@pytest.mark.parametrize("combination", STYLES)
def test_it_connects_with_each_kind_of_credentials(
    combination: str, baked: Baker, chrome: Browser
) -> None:
    with served(baked, combination) as (service, proxy):
        page = chrome.page(f"{proxy.origin}/livez")
        prepare(page, None)
        key = service.shell(". ./.env; printf %s $BACKEND_KEY")
        page.run(f"globalThis.key = {json.dumps(key)}; open_({{ token: {STYLES[combination]} }})")
        page.wait_until("ws.welcome")
        proxy.cut()
        page.wait_until("count('online') === 2")
        user = page.run("return ws.welcome.user")
        assert user.startswith("guest-") if combination == "none" else user == "alice"
        page.run("ws.onmessage = ({ data }) => { globalThis.got = data; }")
        page.run("await ws.request({ type: 'send', to: ws.welcome.user, data: 'to myself' })")
        page.wait_until("globalThis.got === 'to myself'")
        page.run("ws.close()")


API_KEY = "api_key-heartbeat"


def test_a_page_is_told_that_it_cannot_send_an_api_key(baked: Baker, chrome: Browser) -> None:
    with served(baked, API_KEY) as (_, proxy):
        page = chrome.page(f"{proxy.origin}/livez")
        prepare(page, "key")
        page.run("open_()")
        page.wait_until("ws.status.state === 'ended'")
        assert page.run("return ws.status.code") == 4500
        assert "cannot send an API key" in page.run("return ws.status.reason")


def run_in_node(directory: Path, project: Project, main: str, **variables: str) -> list[str]:
    """Run a module beside the client outside of a page; return the lines that it prints."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    for path in (project.root / "app/realtime/client").glob("*.js"):
        shutil.copy(path, directory)
    (directory / "package.json").write_text('{"type": "module"}')
    (directory / "main.js").write_text(main)
    command = [node, "--experimental-websocket", "main.js"]
    shown = check_output(command, directory, env=environment(**variables))
    return [line.strip() for line in shown.splitlines()]


def test_outside_of_a_page_it_sends_an_api_key(baked: Baker, tmp_path: Path) -> None:
    project = baked(find(API_KEY))
    document = project.read("docs/clients.md")
    (example,) = blocks_of("docs/clients.md", document, "js")
    with running(project) as service:
        main = f"""
          {example.text.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")}
          await ws.request({{ type: "ping" }});
          ws.close();
        """
        key = service.connect_options("alice")["headers"]["X-API-Key"]
        shown = run_in_node(tmp_path, project, main, API_KEY=key)
    assert shown == ["connecting", "online", "alice hi", "ended closed by the client"]


def test_outside_of_a_page_a_key_with_a_line_feed_is_not_in_the_reason(
    baked: Baker, tmp_path: Path
) -> None:
    main = """
      import { connect } from "./client.js";
      const ws = connect("ws://127.0.0.1:9/ws", { token: "secret\\n" });
      ws.onstatus = ({ state, reason }) => {
        if (state === "connecting") return;
        console.log(reason);
        ws.onstatus = () => {};
        ws.close();
      };
    """
    (reason,) = run_in_node(tmp_path, baked(find(API_KEY)), main)
    assert reason.startswith("TypeError: the token is not")


PAUSES = {
    "a join": "answer(join, refused)",
    "a leave": "answer(join, joined); room.leave(); answer(JSON.parse(texts.at(-1)), refused)",
    "an info": "answer(join, joined); room.setInfo(1); answer(JSON.parse(texts.at(-1)), refused)",
    "the state": "state = () => Promise.reject('fails'); answer(join, joined)",
    "an aborted state": """
      state = () => new Promise(() => {});
      answer(join, joined);
      receive({ type: "resync", room: "tea" });
      await until(() => texts.length === 2);
      answer(JSON.parse(texts[1]), joined);
    """,
}


@pytest.mark.parametrize("pause", PAUSES)
def test_outside_of_a_page_no_timer_outlives_the_end(
    pause: str, baked: Baker, tmp_path: Path
) -> None:
    main = f"""
      import {{ connect }} from "./client.js";
      const texts = [];
      let socket, state;
      const receive = (frame) => socket.onmessage({{ data: JSON.stringify(frame) }});
      const answer = ({{ id }}, frame) => receive({{ ...frame, id }});
      const refused = {{ type: "error", code: "unavailable", message: "", retry: true }};
      const joined = {{ type: "ok", epoch: "e", offset: 0, recovered: null, replayed: 0 }};
      const until = async (isReached) => {{
        while (!isReached()) await new Promise((done) => setTimeout(done, 1));
      }};
      globalThis.WebSocket = class {{
        constructor() {{ socket = this; }}
        send(text) {{ texts.push(text); }}
        close() {{}}
      }};
      console.error = () => {{}};
      const ws = connect("ws://127.0.0.1:9/ws", {{ token: "token" }});
      const room = ws.room("tea", {{ state: (how) => state?.(how) }});
      await until(() => socket);
      const limits = {{ message_bytes: 9_999, messages_per_s: 9, burst_s: 9 }};
      receive({{ type: "welcome", limits, heartbeat: null, expires_at: null }});
      const join = JSON.parse(texts[0]);
      Math.random = () => 0;
      {PAUSES[pause]};
      await new Promise((done) => setTimeout(done, 5));
      ws.close();
      await new Promise((done) => setTimeout(done));
      console.log(process.getActiveResourcesInfo().filter((name) => name === "Timeout").length);
    """
    shown = run_in_node(tmp_path, baked(DEFAULT), main)
    assert shown == ["0"]


def test_outside_of_a_page_errors_of_handlers_do_not_end_the_process(
    baked: Baker, service: Service, tmp_path: Path
) -> None:
    main = f"""
      import {{ connect }} from "./client.js";
      console.error = ({{ message }}) => console.log(message);
      const fail = (text) => {{ throw new Error(text); }};
      const ws = connect("ws://127.0.0.1:{service.port}/ws", {{ token: process.env.TOKEN }});
      ws.onmessage = async () => fail("in onmessage");
      let calls = 0;
      await new Promise((done) => {{
        const room = ws.room("node", {{
          state: async () => calls++ ? room.publish("hi", {{ echo: true }}) : fail("in state"),
          message: () => {{ done(); fail("in message"); }},
        }});
      }});
      await ws.request({{ type: "broadcast", data: "hi", echo: true }});
      await ws.ping();
      console.log(ws.status.state);
      ws.close();
    """
    shown = run_in_node(tmp_path, baked(DEFAULT), main, TOKEN=make_token(service))
    assert shown == ["in state", "in message", "in onmessage", "online"]


def test_the_example_of_the_document_works(page: Page, baked: Baker) -> None:
    text = baked(DEFAULT).read("docs/clients.md")
    (block,) = blocks_of("docs/clients.md", text, "js")
    imports, _, body = block.text.partition("\n\n")
    assert imports == 'import { connect } from "/client/client.js";'
    page.run(f"""
      globalThis.shown = [];
      const show = (...values) => shown.push(values);
      const [render, apply, getOrders] = [show, show, () => "orders"];
      {body}
    """)
    expected = [["connecting", None], ["alice", "hi"], ["orders"], [{"text": "hi"}]]
    page.wait_until(f"""{json.dumps(expected)}.every((values) =>
      shown.some((each) => JSON.stringify(each) === JSON.stringify(values)))""")
