"""The page at ``/`` in a browser: it chats, shows the connection, and sends every command."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePath
from urllib.parse import urlsplit

import pytest

from .axe import check_accessible
from .browser import FULL_SPEED, Browser, Page, browser
from .checks.service import Service, running
from .combination import DEFAULT, QUESTIONS, find
from .conftest import Baker
from .proxy import Proxy
from .test_browser_client import evict, make_token, served
from .venv import venv_bin

MAX_TABS = 50

HANDLERS = '''"""A command that has an input of each kind."""

from enum import Enum
from typing import Literal

from typing_extensions import TypeAliasType

from .realtime import Command, CommandRouter, Ok
from .resources import Connection, Service, State

router = CommandRouter()


class Draw(Command):
    """Draw cards."""

    type: Literal["draw"]
    cards: int
    name: str
    note: str | None = None
    stake: float | None = None
    suit: Literal["hearts", "spades"] | None = None
    wild: bool = False
    rules: dict[str, int]


class Color(Enum):
    RED = "red"
    BLACK = "black"


Name = TypeAliasType("Name", str | None)


class Bid(Command):
    """Bid for cards, or for none: null is a value of each field."""

    type: TypeAliasType("BidType", Literal["bid"])
    trump: Literal["spades"] | None
    cards: int | None
    color: Color | None
    partner: Name
    contract: int | str | None
    pass_: None


@router.connecting
async def begin(service: Service, connection: Connection) -> State:
    """Return the state of a new connection."""
    return State()


@router.command(Draw)
async def draw(service: Service, connection: Connection, command: Draw) -> Ok:
    """Draw from the deck."""
    return Ok()


@router.command(Bid)
async def bid(service: Service, connection: Connection, command: Bid) -> Ok:
    """Bid."""
    return Ok()
'''

RULES = """    def room_options(self, service: Service, room: str) -> realtime.RoomOptions:
        \"\"\"Hide the members of rooms with this name.\"\"\"
        return realtime.RoomOptions(presence=room != "secret")

    def can_join("""

SCRIPT = """
globalThis.text = (selector, from = document) => from.querySelector(selector)?.innerText ?? "";
globalThis.inputOf = (label) => [...document.querySelectorAll("label")]
  .find((each) => each.firstChild.textContent.trim() === label)
  .querySelector("input, select, textarea");
globalThis.focused = () => {
  const { labels, innerText } = document.activeElement;
  return (labels?.[0]?.firstChild.textContent ?? innerText).trim();
};
globalThis.fill = (label, value) => {
  inputOf(label).value = value;
  inputOf(label).dispatchEvent(new Event("change"));
};
globalThis.press = (label) =>
  [...document.querySelectorAll("button")].find((each) => each.innerText === label).click();
globalThis.all = (selector, from = document) => [...from.querySelectorAll(selector)];
globalThis.said = () => all("article .message")
  .map((each) => `${text("b", each)} ${text("span", each)}`).join();
globalThis.events = () => all("article .event").map((each) => each.innerText).join();
globalThis.members = () => all("article .members li").map((each) => each.innerText).join();
globalThis.sent = (type) => all(`#frames .out[data-type="${type}"] code`)
  .map((each) => JSON.parse(each.textContent));
globalThis.search = (words) => {
  inputOf("Filter").value = words;
  inputOf("Filter").oninput();
};
globalThis.shown = () => all("#frames details").filter((each) => each.checkVisibility())
  .map((each) => each.dataset.type);
globalThis.expiresInAnHour = () => /^in (5\\d|6[01]) minutes$/.test(text("#expiry"));
const { fetch } = globalThis;
globalThis.expire = () => { // not before a pause of the machine ends, nor too late
  globalThis.fetch = (url, { body, ...options }) =>
    fetch(url, { ...options, body: body?.replace('"lifetime_s":5', '"lifetime_s":9') });
  press("Expire credentials");
};
globalThis.states = []; // some last too short to be seen from outside
new MutationObserver(() => states.push(text("#state")))
  .observe(document.querySelector("#state"), { childList: true });
"""

RECEIVE = """
const { send } = WebSocket.prototype;
const socket = new Promise((resolve) => {
  WebSocket.prototype.send = function (text) { resolve(this); send.call(this, text); };
});
fill("Command", "Ping");
press("Send");
const { onmessage } = await socket;
globalThis.receive = (data) => onmessage({ data });
globalThis.line = (type) => all(`#frames .in[data-type="${type}"]`).at(-1);
globalThis.unfold = (type) => line(type).firstChild.click();
"""
"""Lets a test send frames to the page."""

RAW = '{"type":"odd","data":[12345678901234567890, 1e400,-0.0,{"2":"a, b","1":{}}],"a" : [ ]}'
UNFOLDED = """{
  "type": "odd",
  "data": [
    12345678901234567890,
    1e400,
    -0.0,
    {
      "2": "a, b",
      "1": {}
    }
  ],
  "a": [ ]
}"""


TOO_WIDE = """[document.documentElement, ...all(".log")]
  .filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.ariaLabel)"""
"""The parts of the page that are wider than they are shown."""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile"), *FULL_SPEED) as running_browser:
        yield running_browser


@pytest.fixture(scope="module")
def behind(
    baked: Baker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Proxy]]:
    """Run the default project with a command and a rule of its own."""
    project = baked(DEFAULT).copy(tmp_path_factory.mktemp("own") / "project")
    project.write("app/handlers.py", HANDLERS)
    policy = project.read("app/policy.py")
    project.write("app/policy.py", policy.replace("    def can_join(", RULES, 1))
    with served(lambda _: project, DEFAULT.id) as both:
        yield both


def open_page(chrome: Browser, origin: str, fragment: str = "") -> Page:
    """Open the page, and record what the browser does and complains of."""
    page = chrome.page("about:blank")
    for domain in ("Log", "Network", "Runtime"):
        page.call(f"{domain}.enable")
    page.call("Page.navigate", url=f"{origin}/{fragment}")
    page.wait_until(
        "location.pathname === '/' && globalThis.document.querySelector('#palette form')"
    )
    page.run(SCRIPT)
    return page


def signed_in(chrome: Browser, behind: tuple[Service, Proxy], user: str) -> Page:
    """Open the page by the link that ``make token`` prints."""
    service, proxy = behind
    page = open_page(chrome, proxy.origin, f"#token={make_token(service, user)}")
    page.wait_until(f"text('#state') === 'Online as {user}'")
    return page


def in_room(chrome: Browser, behind: tuple[Service, Proxy], room: str) -> list[Page]:
    """Open a page as alice and one as bob, and join a room in both."""
    pages = [signed_in(chrome, behind, user) for user in ("alice", "bob")]
    for page in pages:
        page.run(f"fill('Room', '{room}'); press('Join')")
        page.wait_until("/ here/.test(text('article'))")
    return pages


def check_quiet(page: Page, origin: str) -> None:
    """Check that nothing went to another origin, and that nothing was refused or failed."""
    assert page.run("return /^(#node=\\d+)?$/.test(location.hash)")  # without credentials
    urls = [url for url in requests(page) if not url.startswith("data:")]
    assert any(url.startswith("ws:") for url in urls)
    assert {urlsplit(url).netloc for url in urls} == {urlsplit(origin).netloc}
    check_silent(page)


def requests(page: Page) -> list[str]:
    """Return the URLs that the page has asked for."""
    return [
        event["params"].get("request", event["params"])["url"]
        for event in page.events
        if event["method"] in {"Network.requestWillBeSent", "Network.webSocketCreated"}
    ]


def check_silent(page: Page) -> None:
    """Check that nothing was refused or failed."""
    complaints = [
        event
        for event in page.events
        if event["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}
        or event["method"] == "Runtime.consoleAPICalled"
    ]
    assert not complaints


def test_two_pages_chat_in_a_room(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    alice, bob = (signed_in(chrome, behind, user) for user in ("alice", "bob"))
    for page in (alice, bob):
        assert page.run("return [document.title, text('h1')]") == [QUESTIONS["project_name"]] * 2
        page.run("press('Join')")
        page.wait_until("/ here/.test(text('article'))")
    alice.wait_until("members() === 'alice,bob' && events().endsWith('bob joined')")
    announced = "all('article :is([role=status], [role=log], [role=alert])')"
    bobs = f"{announced}.filter((each) => each.innerText.includes('bob')).length"
    assert alice.run(f"return {bobs}") == 1
    alice.run("fill('Message', 'hello <b>bob</b>'); press('Publish')")
    for page in (alice, bob):
        page.wait_until("said() === 'alice hello <b>bob</b>'")
    assert alice.run("return all('.own').length") == 1
    assert bob.run("return all('.own').length") == 0
    bob.run("press('Leave')")
    alice.wait_until("members() === 'alice' && events().endsWith('bob left')")
    service, proxy = behind
    with service.client("carol") as carol:
        carol.ask(type="join", room="hall", info="away")
        alice.wait_until("""members() === 'alice,carol "away"'""")
        evict(service, "alice", "hall")
        alice.wait_until("document.body.innerText.includes('hall: spam')")
        assert carol.receive("left")["user"] == "alice"
    for page in (alice, bob):
        check_quiet(page, proxy.origin)


def test_a_dropped_connection_recovers_and_is_shown(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, bob = in_room(chrome, behind, "repairs")
    alice.run("press('Go offline')")
    alice.wait_until("text('#state').startsWith('Offline: this page simulates a lost network (')")
    alice.wait_until("text('#next') === 'in 2 seconds'")
    alice.wait_until("text('#next') === 'in 1 second'")
    bob.run("fill('Message', 'while you were away'); press('Publish')")
    bob.wait_until("said()")
    assert alice.run("return said()") == ""
    alice.run("press('Go offline')")
    alice.wait_until("said() === 'bob while you were away'")
    assert alice.run("return [text('#state'), text('#reconnects')]") == ["Online as alice", "1"]
    alice.wait_until(r"/after \d+\.\d s\. 1 missed message recovered\.$/.test(text('#recovery'))")
    alice.run("press('Drop connection')")
    alice.wait_until("states.some((each) => /^Offline: dropped by this page .4000/.test(each))")
    alice.wait_until("text('#state') === 'Online as alice'")
    assert alice.run("return text('#reconnects')") == "2"
    alice.wait_until(r"/after \d+\.\d s\. 0 missed messages recovered\.$/.test(text('#recovery'))")
    alice.call("Page.bringToFront")  # a page that is not seen sends no pings
    alice.wait_until("/^[0-9.]+ ms$/.test(text('#latency')) && expiresInAnHour()")
    alice.run("press('Disconnect')")
    alice.wait_until(
        "text('#state') === 'Ended: closed by the client (1000). Connect again to return.'"
    )
    check_quiet(alice, behind[1].origin)


def test_the_end_of_a_connection_ends_its_simulated_loss(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    button = "document.querySelector('#offline')"
    page.run("press('Go offline')")
    page.wait_until("text('#state').startsWith('Offline')")
    assert page.run(f"return {button}.ariaPressed") == "true"
    page.run("press('Disconnect')")
    page.wait_until("text('#state').startsWith('Ended')")
    assert page.run(f"return [{button}.ariaPressed, {button}.ariaDisabled]") == ["false", "true"]
    page.run("fill('Room', 'late'); press('Join')")
    page.wait_until("document.body.innerText.includes('ended: the connection has ended')")
    page.run("fill('Name', 'alice'); press('Connect')")
    page.wait_until("text('#state') === 'Online as alice'")
    check_quiet(page, behind[1].origin)


@pytest.mark.parametrize(
    "fragment",
    ["", "abc", "0", "08001", "99999", "65536", "-1", "8e3", "8001%26token=x", "8001%0A", "1%2F.."],
)
def test_a_link_without_a_port_names_no_node(
    chrome: Browser, behind: tuple[Service, Proxy], fragment: str
) -> None:
    page = open_page(chrome, behind[1].origin, f"#node={fragment}")
    assert page.run("return [location.hash, text('#another + p'), text('#state')]") == [
        "",
        "",
        "Not connected",
    ]


@pytest.mark.parametrize("port", [80, 65535])
def test_a_link_names_another_node(
    chrome: Browser, behind: tuple[Service, Proxy], port: int
) -> None:
    origin = behind[1].origin
    page = open_page(chrome, origin, f"#node={port}")
    assert page.run("return [location.hash, text('#another + p a')]") == [
        f"#node={port}",
        f"Open the node on port {port}",
    ]
    link = urlsplit(page.run("return document.querySelector('#another + p a').href"))
    assert (link.port or 80, link.fragment) == (port, f"node={urlsplit(origin).port}")


def test_who_is_there_is_shown_again_after_a_resync(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, bob = in_room(chrome, behind, "people")
    alice.wait_until("members() === 'alice,bob'")
    alice.run("""
      globalThis.WebSocket = class extends WebSocket {
        constructor(...how) { super(...how); globalThis.socket = this; }
      };
      globalThis.before = sent("presence").length;
      press("Drop connection");
    """)
    alice.wait_until("text('#reconnects') === '1' && sent('presence').length > before")
    alice.wait_until("members() === 'bob,alice'")
    alice.run("""
      const take = socket.onmessage;
      socket.onmessage = (event) => {
        globalThis.hasLeft ||= JSON.parse(event.data).type === "left";
        if (!hasLeft) take(event);
      };
      globalThis.resync = () => {
        socket.onmessage = take;
        take({ data: '{"type": "resync", "room": "people"}' });
      };
    """)
    bob.run("press('Leave')")
    alice.wait_until("globalThis.hasLeft")
    alice.run("resync()")
    alice.wait_until("text('#recovery').endsWith('asks for them. 0 missed messages recovered.')")
    alice.wait_until("members() === 'alice'")
    check_quiet(alice, behind[1].origin)


def test_a_link_signs_in_where_the_page_is_open_and_typed_names_go_first(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    service, proxy = behind
    page = signed_in(chrome, behind, "alice")
    page.run(f"location.hash = 'token={make_token(service, 'bob')}'")
    page.wait_until("document.querySelector('#state')?.innerText === 'Online as bob'")
    assert page.run("return location.hash") == ""
    page.call("Fetch.enable", patterns=[{"urlPattern": "*/asyncapi.json"}])
    page.run("globalThis.isOld = true")
    page.call("Page.reload")
    page.wait_until("!globalThis.isOld && document.querySelector('#sign-in input')?.isConnected")
    page.run(SCRIPT)
    page.run("fill('Name', 'carol'); press('Connect')")
    page.wait_until("text('#state') === 'Online as carol'")
    (paused,) = [each for each in page.events if each["method"] == "Fetch.requestPaused"]
    page.call("Fetch.continueRequest", requestId=paused["params"]["requestId"])
    page.wait_until("document.querySelector('#palette form')")
    assert page.run("return text('#state')") == "Online as carol"
    check_quiet(page, proxy.origin)


def test_a_draft_and_its_focus_are_kept(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    for number, room in enumerate(("other", "letters"), 1):
        page.run(f"fill('Room', '{room}'); press('Join')")
        page.wait_until(f"all('article .members li').length === {number}")
    page.type("Dear Bob, ")
    evict(behind[0], "alice", "other")
    page.wait_until("document.body.innerText.includes('other: spam')")
    page.type("hello")
    assert page.run("return [focused(), inputOf('Message').value]") == [
        "Message",
        "Dear Bob, hello",
    ]
    page.run("fill('Message', 'x'.repeat(70_000)); press('Publish')")
    page.wait_until(
        "/^“x{80}…” may not have arrived. too_large/.test(text('article [role=alert]'))"
    )
    assert page.run("return inputOf('Message').value.length") == 70_000
    check_quiet(page, behind[1].origin)


def test_a_message_without_an_answer_is_kept_and_may_be_published_again(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'losses'); press('Join')")
    page.wait_until("members() === 'alice'")
    page.run("""
      const { send } = WebSocket.prototype;
      WebSocket.prototype.send = function (text) {
        WebSocket.prototype.send = send;
        send.call(this, text);
        setTimeout(() => this.onclose({ code: 1006, reason: "" }));
      };
      globalThis.long = "😀".repeat(100);
      fill("Message", long);
      press("Publish");
      fill("Message", "new");
    """)
    page.wait_until(
        "/^“(😀){80}…” may not have arrived. disconnected/u.test(text('article [role=alert]'))"
    )
    assert page.run("return [events().endsWith(long), inputOf('Message').value]") == [True, "new"]
    page.wait_until("text('#reconnects') === '1'")
    page.run(
        "for (const text of [long, 'new', 'new']) { fill('Message', text); press('Publish'); }"
    )
    page.wait_until("said().endsWith('new,alice new')")
    assert page.run("return said() === `alice ${long},alice new,alice new`")
    check_quiet(page, behind[1].origin)


def test_names_and_texts_fit_whatever_their_length_and_direction(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "W" * 128)
    for room in ("r" * 64, "q" * 300):
        page.run(f"fill('Room', '{room}'); press('Join')")
    page.wait_until("members() && text('section > [role=alert]').startsWith('qqq')")
    page.run("fill('Message', 'x'.repeat(70_000)); press('Publish')")
    with behind[0].client("M" * 128) as other:
        other.ask(type="join", room="r" * 64, info="y" * 900)
        page.wait_until("members().includes('M') && text('article [role=alert]')")
        page.run("globalThis.setTimeout = () => 0")  # who types is not hidden again
        for data in ("x" * 3_000, "C++ הוא שפה."):
            other.ask(type="publish", room="r" * 64, data=data)
        other.ask(type="publish", room="r" * 64, data={"typing": True}, keep=False)
        page.wait_until("all('article .message').length === 2 && text('.typing')")
        for width in (360, 1280):
            page.resize(width)
            assert page.run(f"return [text('.typing') !== '', {TOO_WIDE}]") == [True, []], width
    ends = page.run("""
      const [span, number] = ["span", "small"].map((tag) => all(`article .message ${tag}`).at(-1));
      return [span.getBoundingClientRect().right, number.getBoundingClientRect().left];
    """)
    assert ends == sorted(ends)  # the number of the message is not within its text
    check_quiet(page, behind[1].origin)


def test_a_room_without_presence_is_shown_as_joined(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'secret'); press('Join')")
    page.wait_until("text('article .members').startsWith('Joined. This room does not show')")
    page.run("press('Stream an answer')")
    page.wait_until("text('.answer').length > 20")
    page.run("press('Leave')")
    check_quiet(page, behind[1].origin)


def test_a_first_join_that_is_repeated_shows_who_is_there(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("""
      const send = WebSocket.prototype.send;
      WebSocket.prototype.send = function (text) {
        const { type, id } = JSON.parse(text);
        if (type !== "join") return send.call(this, text);
        WebSocket.prototype.send = send;
        const error = { type: "error", id, code: "unavailable", message: "", retry: true };
        setTimeout(() => this.onmessage({ data: JSON.stringify(error) }));
      };
      fill("Room", "late");
      press("Join");
    """)
    page.wait_until("members() === 'alice'")
    assert page.run("return sent('presence').length") == 1  # after the join
    check_quiet(page, behind[1].origin)


def test_a_refused_join_is_not_shown_as_a_room_without_presence(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("""
      const send = WebSocket.prototype.send;
      WebSocket.prototype.send = function (text) {
        WebSocket.prototype.send = send;
        const { id } = JSON.parse(text);
        const error = { type: "error", id, code: "forbidden", message: "", retry: false };
        setTimeout(() => this.onmessage({ data: JSON.stringify(error) }));
      };
      sessionStorage["answer of alice in closed"] = "unfinished";
      fill("Room", "closed");
      press("Join");
      globalThis.article = document.querySelector("article");
    """)
    page.wait_until("text('section > [role=alert]').startsWith('closed: forbidden')")
    assert page.run("return text('.members', article)") == "Joining …"
    page.run("fill('Command', 'Ping'); press('Send')")
    page.wait_until("text('output').startsWith('Answer') && sent('ping').length")
    assert page.run("return sent('publish')") == []
    check_quiet(page, behind[1].origin)


def test_many_who_join_at_once_cause_few_requests(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'crowd'); press('Join')")
    page.wait_until("members() === 'alice'")
    page.run(f"""{RECEIVE}
      WebSocket.prototype.send = function (text) {{
        const {{ type, id }} = JSON.parse(text);
        if (type !== "presence") return send.call(this, text);
        WebSocket.prototype.send = send;
        const error = {{ type: "error", id, code: "rate_limited", message: "", retry: true }};
        setTimeout(() => receive(JSON.stringify(error)));
      }};
      globalThis.before = sent("presence").length;
      for (let i = 0; i < 100; i++) {{
        const joined = {{ type: "joined", room: "crowd", user: `user${{i}}`, info: null }};
        receive(JSON.stringify(joined));
      }}
    """)
    page.wait_until("all('#frames .in[data-type=error]').length === 1")
    page.wait_until("sent('presence').length === before + 2")  # refused, then asked again
    with behind[0].client("bob") as bob:
        bob.ask(type="join", room="crowd")
        page.wait_until("members() === 'alice,bob'")
    assert page.run("return sent('presence').length - before") <= 5
    check_quiet(page, behind[1].origin)


def test_a_frame_unfolds_and_is_found(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("""fill('Command', 'Send'); fill('to', 'bob'); fill('data', '"a \\\\"b\\\\": 1"')""")
    page.run("press('Send')")
    page.wait_until("text('output').startsWith('Answer')")
    page.run("all('#frames .out[data-type=send] summary').at(-1).click()")
    page.wait_until("text('#frames pre')")
    page.run("document.querySelector('details[open]').dispatchEvent(new Event('toggle'))")
    assert page.run("return all('#frames pre').length") == 1
    frame = page.run("return sent('send').at(-1)")
    assert frame["data"] == 'a "b": 1'
    assert json.loads(page.run("return text('#frames pre')")) == frame
    page.run("""search('"type":"send","to":"bob"')""")
    assert page.run("return shown()") == ["send"]
    page.run("fill('to', 'carol'); press('Send')")
    page.wait_until("sent('send').length === 2")
    assert page.run("return shown().length") == 1
    page.run("search('')")
    assert page.run("return shown().length") > 3
    check_quiet(page, behind[1].origin)


def test_a_raw_frame_is_shown_as_it_came(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run(f"{RECEIVE} receive({json.dumps(RAW)}); await 0; unfold('odd')")
    page.wait_until("text('pre', line('odd'))")
    assert page.run("return line('odd').querySelector('code').textContent") == RAW
    assert page.run("return text('pre', line('odd'))") == UNFOLDED
    kinds = "all('pre span', line('odd')).map((each) => each.className)"
    assert page.run(f"return {kinds}.slice(0, 5)") == ["name", "string", "name", "value", "value"]
    assert page.run(f"return {kinds}.at(-1)") == "name"


def test_a_long_frame_makes_few_elements(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    data = {"type": "long", "text": "😀" * 300, "data": [0] * 32_000, "end": "now"}
    frame = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    deep = f'{{"type":"deep","data":{"[" * 99}{"]" * 99}}}'
    page.run(f"{RECEIVE} receive({json.dumps(frame)}); receive({json.dumps(deep)})")
    elements = "line('long').querySelectorAll('*').length"
    assert page.run(f"return {elements}") < 300
    assert page.run("return line('long').querySelector('code').textContent") == frame[:500]
    page.run("unfold('long'); unfold('deep')")
    page.wait_until("text('pre', line('long')) && text('pre', line('deep'))")
    assert page.run(f"return {elements}") < 3_000
    unfolded = page.run("return line('long').querySelector('pre').textContent")
    assert "".join(unfolded.split()) == frame
    lines = page.run("return line('deep').querySelector('pre').textContent").splitlines()
    assert max(len(each) - len(each.lstrip()) for each in lines) == 100
    page.run("""search('"end":"now"')""")
    assert page.run("return shown()") == ["long"]


def test_a_log_follows_unless_its_reader_has_scrolled_up(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'scroll'); press('Join')")
    page.wait_until("members() === 'alice'")
    page.run("globalThis.log = document.querySelector('article .log')")
    with behind[0].client("bob") as bob:
        bob.ask(type="join", room="scroll")
        for number in range(30):
            bob.ask(type="publish", room="scroll", data=number)
        page.wait_until("said().endsWith('bob 29')")
        assert page.run("return log.scrollHeight - log.scrollTop - log.clientHeight") < 2
        page.run("log.scrollTop = 0")
        bob.ask(type="publish", room="scroll", data="new")
        page.wait_until("said().endsWith('bob new')")
        assert page.run("return log.scrollTop") == 0
    check_quiet(page, behind[1].origin)


def test_an_answer_that_begins_offline_goes_on_online(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, _ = in_room(chrome, behind, "offline")
    alice.run("press('Go offline')")
    alice.wait_until("text('#state').startsWith('Offline')")
    alice.run("press('Stream an answer')")
    assert "answer of alice in offline" in alice.run("return Object.keys(sessionStorage)")
    alice.run("press('Go offline')")
    alice.wait_until("all('.answer').at(-1)?.innerText.trim().endsWith('the answer goes on.')")
    check_quiet(alice, behind[1].origin)


def test_pings_do_not_replace_the_other_frames(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run(RECEIVE)
    page.run('for (let i = 0; i < 300; i++) receive(\'{"type": "pong"}\')')
    page.wait_until("all('#frames [data-type=pong]').length >= 19")
    assert page.run("return Boolean(line('welcome'))")
    assert page.run("return all('#frames details').length") < 50
    check_quiet(page, behind[1].origin)


def test_the_page_works_where_nothing_may_be_stored(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    service, proxy = behind
    page = chrome.page("about:blank")
    forbid = "Object.defineProperty(window, 'sessionStorage', { get() { throw new Error(); } })"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=forbid)
    page.call("Page.navigate", url=f"{proxy.origin}/#token={make_token(service, 'alice')}")
    page.wait_until("globalThis.document?.querySelector('#state')?.innerText === 'Online as alice'")
    page.run(SCRIPT)
    page.run("fill('Room', 'hall'); press('Join')")
    page.wait_until("/ here/.test(text('article'))")
    page.run("press('Disconnect')")
    page.wait_until("text('#state').startsWith('Ended')")


def test_a_gap_is_shown(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    alice, bob = in_room(chrome, behind, "gaps")
    alice.run("press('Go offline')")
    alice.wait_until("text('#state').startsWith('Offline')")
    with behind[0].client("carol") as carol:
        carol.ask(type="join", room="gaps")
        for number in range(150):  # more than the history keeps
            carol.ask(type="publish", room="gaps", data=number)
        carol.ask(type="leave", room="gaps")
    bob.wait_until("events().endsWith('carol left')")
    alice.run("press('Go offline')")
    alice.wait_until("events().endsWith('Some messages may be missing here.')")
    assert "missing" not in bob.run("return events()")
    check_quiet(alice, behind[1].origin)


def test_credentials_that_expire_are_replaced_and_nothing_is_lost(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, bob = in_room(chrome, behind, "expiry")
    alice.run("expire()")
    alice.wait_until("/^in \\d+ seconds?$/.test(text('#expiry'))")
    alice.wait_until("states.some((each) => /^Offline: expired .4005..$/.test(each))")
    bob.run("fill('Message', 'while you were away'); press('Publish')")
    alice.wait_until("said() === 'bob while you were away'")
    alice.wait_until("expiresInAnHour()")
    assert alice.run("return [text('#state'), text('#reconnects')]") == ["Online as alice", "2"]
    check_quiet(alice, behind[1].origin)


def test_fields_of_frames_of_a_team_are_not_taken_for_those_of_the_service(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("press('Drop connection')")
    page.wait_until("text('#recovery').includes('Online again after') && expiresInAnHour()")
    fields = {"expires_at": 5, "recovered": True, "replayed": 5}
    page.run(RECEIVE)
    for frame in ({"type": "offer", **fields}, {"type": "ok", "id": "of-another", **fields}):
        page.run(f"receive({json.dumps(json.dumps(frame))})")
    page.wait_until("line('offer') && line('ok')")
    page.run("document.querySelector('#expiry').textContent = ''")
    page.wait_until("text('#expiry')")  # shown again, after the frames
    assert page.run("return expiresInAnHour()")
    assert "recovered" not in page.run("return text('#recovery')")
    token = make_token(behind[0], "alice", 1_800)
    page.run(f"fill('Command', 'Refresh'); fill('token', '{token}'); press('Send')")
    page.wait_until("/^in (29|30) minutes$/.test(text('#expiry'))")
    check_quiet(page, behind[1].origin)


def test_who_types_is_shown_and_not_kept(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    alice, bob = in_room(chrome, behind, "typing")
    bob.run("""
      globalThis.typing = []; // shown for some seconds
      new MutationObserver(() => typing.push(text(".typing")))
        .observe(document.querySelector(".typing"), { childList: true });
    """)
    alice.run("inputOf('Message').dispatchEvent(new Event('input'))")
    bob.wait_until("typing.includes('alice is typing …')")
    alice.run("fill('Message', 'done'); press('Publish')")
    bob.wait_until("said() === 'alice done'")
    assert bob.run("return text('.typing')") == ""
    check_quiet(alice, behind[1].origin)


def test_messages_of_a_team_are_shown_whatever_their_fields(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'market'); press('Join')")
    page.wait_until("members() === 'alice'")
    with behind[0].client("bob") as bob, behind[0].client("carol") as carol:
        for client, data in (
            (bob, {"token": "BTC", "price": 90_000}),
            (carol, {"token": {"sym": "SOL"}, "answer": "1"}),
            (bob, {"typing": True, "text": "kept"}),
            (bob, {"answer": "1", "token": "bob's"}),
            (carol, {"answer": "1", "token": "carol's"}),
        ):
            client.ask(type="join", room="market")
            client.ask(type="publish", room="market", data=data)
    page.wait_until("all('article .message').length === 5")
    assert page.run("return all('article .message').map((each) => text('span', each).trim())") == [
        '{"token":"BTC","price":90000}',
        '{"token":{"sym":"SOL"},"answer":"1"}',
        "kept",
        "bob's",
        "carol's",
    ]
    assert page.run("return text('.typing')") == ""
    check_quiet(page, behind[1].origin)


PAUSE_IN_THE_MIDDLE = """
const later = setTimeout;
globalThis.setTimeout = (react, ms) =>
  later(react, ms === 150 && all(".answer span").length > 3 ? 600_000 : ms);
"""
"""Makes the pause after some words of an answer longer than the test."""


def stream_through_a_reload(page: Page) -> None:
    """Stream an answer, reload the page in the middle, and check that the answer goes on."""
    # A page that did not come by HTTPS, nor from this host, has no such function.
    page.run(f"{PAUSE_IN_THE_MIDDLE} delete Crypto.prototype.randomUUID;")
    page.run("press('Stream an answer')")
    page.wait_until("document.querySelectorAll('.answer span').length > 3")
    page.call("Page.reload")
    page.wait_until("globalThis.document.querySelector('article')")
    page.run(SCRIPT)
    page.wait_until("all('.answer').at(-1)?.innerText.trim().endsWith('the answer goes on.')")
    assert page.run("return all('.answer').length") == 1
    sent = [frame["key"].rsplit("-", 1)[-1] for frame in page.run("return sent('publish')")]
    assert sent == sorted(sent, key=int)
    assert int(sent[0]) > 3  # it was not given again from the beginning
    page.wait_until("Object.keys(sessionStorage).length === 2")  # the answer is finished


def test_a_streamed_answer_survives_a_reload(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, bob = in_room(chrome, behind, "answers")
    stream_through_a_reload(alice)
    bob.wait_until("text('.answer').trim().endsWith('the answer goes on.')")
    assert alice.run("return text('.answer')") == bob.run("return text('.answer')")
    check_quiet(bob, behind[1].origin)


def test_an_answer_goes_on_after_the_log_has_forgotten_its_beginning(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Room', 'long'); press('Join')")
    page.wait_until("members() === 'alice'")
    with behind[0].client("bob") as bob:
        bob.ask(type="join", room="long")
        for data in ({"answer": "1", "token": "old"}, *range(200), {"answer": "1", "token": "new"}):
            bob.ask(type="publish", room="long", data=data)
    page.wait_until("said().endsWith('bob new')")
    check_quiet(page, behind[1].origin)


def test_a_streamed_answer_survives_that_a_guest_gets_another_name(
    chrome: Browser, baked: Baker
) -> None:
    with served(baked, "none-rooms") as (_, proxy):
        page = open_page(chrome, proxy.origin)
        page.run("press('Connect'); press('Join')")
        page.wait_until("/ here/.test(text('article'))")
        stream_through_a_reload(page)
        check_quiet(page, proxy.origin)
        page.run("press('Disconnect')")


def test_the_palette_sends_a_command_of_the_team(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Command', 'Draw'); fill('cards', '2'); fill('name', 'ann')")
    page.run("""fill('rules', '{"aces": "four"}'); press('Send')""")
    page.wait_until("text('output').startsWith('Failed: bad_request')")
    assert page.run("return inputOf('suit').selectedOptions[0].text") == "not set"
    for label, value, failure in (
        ("rules", "{oops", "rules is not JSON"),
        ("rules", "12345678901234567890abc", "rules is not JSON"),
        ("rules", '{"aces": 9007199254740993}', "rules has a number that is too large"),
        ("rules", '{"aces": 1e400}', "rules has a number that is too large"),
        ("stake", "9007199254740993", "stake has a number that is too large"),
        ("cards", "12345678901234567890", "cards has a number that is too large"),
    ):
        page.run(f"fill('{label}', '{value}'); press('Send')")
        page.wait_until(f"text('output').startsWith('Failed: {failure}')")
    rules = '{"aces": 4, "12345678901234567890": 1e20}'
    page.run(f"""fill('rules', '{rules}'); fill('suit', '"spades"'); fill('wild', 'true')""")
    page.run("fill('cards', '007'); fill('stake', '.5')")
    page.run("press('Send')")
    page.wait_until("""text('output').startsWith('Answer: {"type":"ok"')""")
    page.run("fill('Command', 'Ping')")
    assert page.run("return text('output')") == ""
    sent = page.run("return sent('draw').at(-1)")
    assert sent | {"id": ""} == {
        "id": "",
        "type": "draw",
        "cards": 7,
        "name": "ann",
        "stake": 0.5,
        "suit": "spades",
        "wild": True,
        "rules": json.loads(rules),
    }
    check_quiet(page, behind[1].origin)


def test_the_palette_sends_null_for_a_required_input_that_is_left_empty(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    choices = {"trump": "spades", "color": "red", "contract": "all"}
    fields = choices | {"cards": 2, "partner": "bob", "pass_": None}
    for bid in (dict.fromkeys(fields), fields):
        page.run("fill('Command', 'Bid')")
        for name, value in bid.items():
            is_text = name == "partner" and value
            typed = "" if value is None else value if is_text else json.dumps(value)
            page.run(f"fill('{name}', {json.dumps(typed)})")
        page.run("press('Send')")
        page.wait_until("""text('output').startsWith('Answer: {"type":"ok"')""")
        sent = page.run("return sent('bid').at(-1)")
        assert sent == bid | {"id": sent["id"], "type": "bid"}
    check_quiet(page, behind[1].origin)


def test_the_palette_has_every_command(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Command', 'Send'); fill('to', 'alice'); fill('data', '\"hi\"'); press('Send')")
    page.wait_until("text('#inbox span') === 'hi'")
    unlabelled = page.run("""
      const unlabelled = [];
      for (const { value } of inputOf("Command").options) {
        fill("Command", value);
        for (const input of document.querySelectorAll("input, select, textarea"))
          if (!input.labels.length) unlabelled.push(value);
      }
      return [inputOf("Command").options.length, unlabelled];
    """)
    assert unlabelled[0] > 5
    assert unlabelled[1] == []


def test_a_room_can_be_left_by_the_palette(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    alice, bob = in_room(chrome, behind, "exit")
    alice.run("fill('Command', 'Leave'); fill('room', 'exit'); press('Send')")
    alice.wait_until("""text('output').startsWith('Answer: {"type":"ok"')""")
    assert alice.run("return [text('article'), sent('leave').length]") == ["", 1]
    bob.wait_until("members() === 'bob'")
    check_quiet(alice, behind[1].origin)


def test_a_room_can_be_left_by_the_palette_while_offline(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    alice, _ = in_room(chrome, behind, "away")
    alice.run("press('Go offline')")
    alice.wait_until("text('#state').startsWith('Offline')")
    alice.run("fill('Command', 'Leave'); fill('room', 'away'); press('Send')")
    alice.wait_until("text('output').startsWith('Done. No command had')")
    assert alice.run("return text('article')") == ""


def test_frames_of_a_room_that_only_the_palette_has_joined_are_shown(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("fill('Command', 'Join'); fill('room', 'attic'); press('Send')")
    page.wait_until("text('output').startsWith('Answer: ')")
    with behind[0].client("bob") as bob:
        bob.ask(type="join", room="attic")
        page.wait_until("""/"type":"joined".*"user":"bob"/.test(text('#inbox'))""")
    check_quiet(page, behind[1].origin)


def test_its_controls_are_aligned(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = signed_in(chrome, behind, "alice")
    page.run("press('Join')")
    page.wait_until("/ here/.test(text('article'))")
    page.resize(1280)
    tops, rows, gaps = page.run("""
      scrollTo(0, 0);
      const box = (node) => node.getBoundingClientRect();
      const right = (text) => {
        const range = document.createRange();
        range.selectNode(text);
        return box(range).right;
      };
      return [
        ["#connection", "#break"].map((id) => box(document.querySelector(id)).top),
        all(".line:has(button)").map((line) =>
          new Set(all("button", line).map((button) => box(button).top)).size),
        all("label:not(:has([type=checkbox]))").map((label) =>
          box(label.lastChild).left - right(label.firstChild)),
      ];
    """)
    assert len(set(tops)) == 1
    assert set(rows) == {1}
    assert min(gaps) > 4  # the outline of a focused input


def test_the_bar_stays_in_sight_except_on_a_phone(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = signed_in(chrome, behind, "alice")
    box = "document.querySelector('#bar').getBoundingClientRect()"
    page.resize(1280)
    assert page.run(f"scrollTo(0, 9_999); return [scrollY > 0, {box}.top]") == [True, 0]
    page.resize(390)
    assert page.run(f"scrollTo(0, 9_999); return {box}.bottom") < 0
    padding = page.run("return getComputedStyle(document.documentElement).scrollPaddingTop")
    assert padding == "auto"


def test_each_part_has_a_name_of_its_own(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = in_room(chrome, behind, "names")[0]
    names = page.run("""
      const label = (node) => document.getElementById(node.getAttribute("aria-labelledby"));
      return all("section, article, [role=group], [role=log]")
        .map((node) => node.ariaLabel ?? label(node).innerText);
    """)
    assert len(names) > 8
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_in_every_state(
    chrome: Browser, behind: tuple[Service, Proxy], scheme: str
) -> None:
    page = open_page(chrome, behind[1].origin)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)
    check_accessible(page)
    page.run("fill('Name', 'alice'); press('Connect')")
    page.wait_until("text('#state') === 'Online as alice'")
    page.run(f"fill('Room', '{scheme}'); press('Join')")
    page.run("fill('Command', 'Presence'); fill('room', 'nowhere'); press('Send')")
    page.wait_until("/ here/.test(text('article')) && text('output').startsWith('Failed')")
    page.run("fill('Message', 'hello'); press('Publish')")
    page.wait_until("said() === 'alice hello'")
    check_accessible(page)
    page.run("all('#frames summary').forEach((each) => each.click())")
    page.wait_until("all('#frames pre').length > 5")
    check_accessible(page)
    page.run("fill('Command', 'Draw')")
    check_accessible(page)
    for button, state in (("Go offline", "Offline"), ("Disconnect", "Ended")):
        page.run(f"press('{button}')")
        page.wait_until(f"text('#state').startsWith('{state}')")
        check_accessible(page)
        hover(page, 'button[aria-pressed="true"]')  # where the pointer is after a click
        check_accessible(page)


def test_states_of_buttons_differ_in_forced_colours(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = open_page(chrome, behind[1].origin)
    features = [{"name": "forced-colors", "value": "active"}]
    page.call("Emulation.setEmulatedMedia", features=features)
    button = "getComputedStyle(document.querySelector('#offline'))"
    look = f"return {button}.color + {button}.backgroundColor"
    disabled = page.run(look)
    page.run("fill('Name', 'alice'); press('Connect')")
    page.wait_until("text('#state') === 'Online as alice'")
    enabled = page.run(look)
    page.run("press('Go offline')")
    page.wait_until("text('#state').startsWith('Offline')")
    assert len({disabled, enabled, page.run(look)}) == 3


def hover(page: Page, selector: str) -> None:
    """Show an element, if there is one, as under the pointer."""
    page.call("DOM.enable")
    page.call("CSS.enable")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    if node:
        page.call("CSS.forcePseudoState", nodeId=node, forcedPseudoClasses=["hover"])


def tab_to(page: Page, label: str, *, back: bool = False) -> None:
    """Move the focus by the keyboard to the input or button with this label."""
    for _ in range(MAX_TABS):
        page.press("Tab", shift=back)
        if page.run(f"return focused() === '{label}'"):
            return
    pytest.fail(f"{label} is not reached")


def test_it_is_used_by_the_keyboard_alone(chrome: Browser, behind: tuple[Service, Proxy]) -> None:
    page = open_page(chrome, behind[1].origin)
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    tab_to(page, "Name")
    page.type("alice")
    tab_to(page, "Connect")
    page.press("Enter")
    page.wait_until("text('#state') === 'Online as alice'")
    tab_to(page, "Room")
    page.type("keys")
    tab_to(page, "Join")
    page.press("Space")
    page.wait_until("members() === 'alice'")
    assert page.run("return [text('h3'), focused()]") == ["keys", "Message"]
    page.type("hello")
    tab_to(page, "Publish")
    page.press("Space")
    page.wait_until("said() === 'alice hello'")
    tab_to(page, "Leave", back=True)
    page.press("Enter")
    page.wait_until("!document.querySelector('article') && focused() === 'Room'")
    tab_to(page, "Drop connection", back=True)
    for reconnects in "12":
        page.press("Space")
        page.wait_until(
            f"text('#reconnects') === '{reconnects}' && text('#state') === 'Online as alice'"
        )
        assert page.run("return focused()") == "Drop connection"
    tab_to(page, "Disconnect", back=True)
    page.press("Enter")
    page.wait_until("text('#state').startsWith('Ended') && focused() === 'Disconnect'")
    assert page.run("return document.activeElement.ariaDisabled") == "true"
    tab_to(page, "Drop connection")
    page.press("Space")
    assert page.run("return text('#recovery').match(/Dropped/g).length") == 2
    check_quiet(page, behind[1].origin)


def test_it_may_not_load_from_elsewhere_nor_run_inline_scripts(
    chrome: Browser, behind: tuple[Service, Proxy]
) -> None:
    page = open_page(chrome, behind[1].origin)
    header = page.run("return (await fetch('/')).headers.get('Content-Security-Policy')")
    policy = dict(directive.strip().split(" ", 1) for directive in header.split(";"))
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy.pop(name) == "'none'"
    assert policy.pop("img-src") == "data:"
    assert policy == dict.fromkeys(("connect-src", "script-src", "style-src"), "'self'")


SIGN_IN = {
    DEFAULT.id: "fill('Name', 'alice ');",  # as keyboards of phones complete it
    "ticket-redis": "fill('Name', 'alice'); fill('Backend key', key);",
    "session-rooms": "fill('Name', 'alice');",
    "none": "",
}
"""Combinations, and how one signs in."""


@pytest.mark.parametrize("combination", SIGN_IN)
def test_it_signs_in_by_each_style(chrome: Browser, baked: Baker, combination: str) -> None:
    with served(baked, combination) as (service, proxy):
        page = open_page(chrome, proxy.origin)
        enabled = "all('button:not([aria-disabled=true])').map((each) => each.innerText)"
        assert {*page.run(f"return {enabled}")} <= {"Connect", "Send"}
        key = service.shell(". ./.env; printf %s $BACKEND_KEY")
        page.run(f"const key = {json.dumps(key)}; {SIGN_IN[combination]} press('Connect')")
        page.wait_until("text('#state').startsWith('Online as ')")
        assert page.run("return /Rooms/.test(document.body.innerText)") == ("rooms" in combination)
        page.run("press('Drop connection')")
        page.wait_until("text('#reconnects') === '1'")
        assert "Online again after" in page.run("return text('#recovery')")
        expires = combination == DEFAULT.id or "session" in combination
        assert page.run("return document.querySelector('#expire').checkVisibility()") == expires
        if expires:
            page.run("expire()")
            page.wait_until("states.some((each) => /^Offline: expired .4005./.test(each))")
            page.wait_until("text('#state') === 'Online as alice'")
        check_quiet(page, proxy.origin)
        page.run("press('Disconnect')")


def test_the_line_of_make_token_connects_as_somebody_else(chrome: Browser, baked: Baker) -> None:
    project = baked(find("session-rooms"))
    with running(project) as service:
        page = open_page(chrome, f"http://127.0.0.1:{service.port}")
        page.run("fill('Name', 'alice'); press('Connect')")
        page.wait_until("text('#state') === 'Online as alice'")
        printed = service.shell(f"{venv_bin(project) / 'python'} -m dev.token bob")
        line = printed.splitlines()[-1].replace("new WebSocket", "const socket = new WebSocket")
        user = page.run(f"""
          {line};
          return new Promise((resolve) => {{
            socket.onmessage = ({{ data }}) => resolve(JSON.parse(data).user);
          }});
        """)
        assert user == "bob"


def test_without_a_way_to_connect_it_says_how_and_has_no_scripts(
    chrome: Browser, baked: Baker
) -> None:
    combination = "api_key-heartbeat"
    with served(baked, combination) as (_, proxy):
        page = chrome.page("about:blank")
        for domain in ("Log", "Network", "Runtime"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=f"{proxy.origin}/")
        page.wait_until("location.pathname === '/' && document.querySelector('h1')")
        assert "make client" in page.run("return document.body.innerText")
        assert page.run("return document.querySelector('script, form, button')") is None
        check_accessible(page)
        links = page.run("return [...document.links].map((each) => each.href)")
        assert links == [f"{proxy.origin}/docs/ws/", f"{proxy.origin}/docs/"]
        for link in links:
            page.call("Page.navigate", url=link)
            page.wait_until(f"location.href === '{link}' && document.querySelector('code, .title')")
        check_silent(page)
    loaded = {PurePath(url).name for url in requests(page) if "/page/" in url}
    files = baked(find(combination)).files()
    page_files = {path.name for path in files if path.match("http/page/*")}
    assert loaded == page_files - {"index.html"}


def test_it_says_why_it_cannot_sign_in(chrome: Browser, baked: Baker) -> None:
    with served(baked, "ticket-redis") as (service, proxy):
        page = open_page(chrome, proxy.origin)
        page.run("fill('Name', 'alice'); fill('Backend key', 'ключ'); press('Connect')")
        page.wait_until("text('#state').startsWith('Offline: the backend key must be ASCII')")
        page.run("fill('Backend key', 'wrong'); press('Connect')")
        page.wait_until("text('#state').startsWith('Offline: the key is missing or wrong')")
        key = service.shell(". ./.env; printf %s $BACKEND_KEY")
        page.run(f"fill('Name', 'a\u200b'); fill('Backend key', '{key}'); press('Connect')")
        page.wait_until("/^Offline: .*A user's name has 1 to 128 visible/.test(text('#state'))")
        proxy.refuses = True
        proxy.cut()
        page.wait_until("text('#state').startsWith('Offline: the service does not answer')")
        page.run("press('Disconnect')")


def test_a_client_without_rooms_does_not_ask_for_lost_messages(
    chrome: Browser, baked: Baker
) -> None:
    with served(baked, "none-redis") as (_, proxy):
        page = open_page(chrome, proxy.origin)
        page.run("press('Connect')")
        page.wait_until("text('#state').startsWith('Online')")
        page.run(f"""{RECEIVE} receive('{{"type":"resync","room":null}}')""")
        assert page.run("return text('#recovery span')") == "The service may have lost messages."
        scripts = page.run("""
          const names = ["page.js", "recovery.js"];
          const get = async (name) => (await fetch(`/page/${name}`)).text();
          return (await Promise.all(names.map(get))).join();
        """)
        assert not re.search("replayed|messages recovered", scripts)
        page.run("press('Disconnect')")


@pytest.mark.parametrize(
    ("combination", "hint"),
    [
        ("none", " If it runs, add {} to ALLOWED_ORIGINS."),
        ("jwt", "Offline: add the origin of this page to ALLOWED_ORIGINS (1006)."),
        ("session", "Offline: add the origin of this page to ALLOWED_ORIGINS (1006)."),
    ],
)
def test_it_says_why_it_cannot_connect(
    chrome: Browser, baked: Baker, combination: str, hint: str
) -> None:
    with served(baked, combination, ALLOWED_ORIGINS="http://elsewhere.test") as (_, proxy):
        page = open_page(chrome, proxy.origin)
        if combination != "none":
            page.run("fill('Name', 'alice')")
        page.run("press('Connect')")
        page.wait_until(f"text('#state').endsWith('{hint.format(proxy.origin)}')")


def test_it_is_off_in_production(chrome: Browser, baked: Baker) -> None:
    with served(baked, "none", ENVIRONMENT="production") as (_, proxy):
        page = chrome.page(f"{proxy.origin}/livez")
        statuses = page.run("""
          const paths = ["/", "/page/page.js", "/page/index.html"];
          return Promise.all(paths.map(async (path) => (await fetch(path)).status));
        """)
        assert statuses == [404, 404, 404]
