"""Write the README's pictures of the page at ``/``: ``make pictures``. Needs Chromium."""

import base64
import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from proof.project import bake_default
from tests.browser import FULL_SPEED, Browser, Page, browser
from tests.combination import DEFAULT
from tests.project import Project
from tests.test_browser_client import served

DOCS = Path(__file__).parent.parent / "docs"
SIZE = {"width": 1280, "height": 1080}
GO_OFFLINE = "document.querySelector('#offline').click()"
UNFOLD = "[...document.querySelectorAll('[data-type=message] summary')].at(-1).click()"
SCROLL = "document.querySelector('#frames').scrollTo(0, 9_999); scrollTo(0, 0)"
ONLINE = "document.querySelector('#state')?.className === 'online'"
JOINED = "/ here/.test(document.querySelector('article')?.innerText)"


def submit(page: Page, form: str, text: str) -> None:
    """Fill the only input of a form, and submit it."""
    page.run(f"""
        const form = document.querySelector({json.dumps(form)});
        form.querySelector("input").value = {json.dumps(text)};
        form.requestSubmit();
    """)


def visit(chromium: Browser, url: str) -> Page:
    """Open the page, signed in, and join a room."""
    page = chromium.page("about:blank")
    page.call("Page.navigate", url=url)
    page.wait_until(ONLINE)
    submit(page, "section[aria-label=Rooms] form", "hall")
    page.wait_until(JOINED)
    return page


def main() -> None:
    """Let two users chat, and take the pictures of what one of them sees."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        project = Project(bake_default(directory / "project"), DEFAULT, {})
        _, proxy = stack.enter_context(served(lambda _: project, DEFAULT.id))
        chromium = stack.enter_context(browser(directory / "profile", *FULL_SPEED))
        alice, bob = (visit(chromium, f"{proxy.origin}/#user={user}") for user in ("alice", "bob"))
        alice.call("Page.bringToFront")
        alice.call("Emulation.setScrollbarsHidden", hidden=True)
        alice.call("Emulation.setDeviceMetricsOverride", **SIZE, deviceScaleFactor=1, mobile=False)
        for page, text in ((alice, "Is anybody here?"), (bob, "I am. Try to go offline!")):
            submit(page, "article form", text)
            alice.wait_until(f"document.body.innerText.includes({json.dumps(text)})")
        alice.run(GO_OFFLINE)
        alice.wait_until("document.querySelector('#state').className === 'offline'")
        submit(bob, "article form", "You will read this later.")
        submit(bob, "article form", "Welcome back.")
        bob.wait_until("document.body.innerText.includes('Welcome back.')")
        alice.run(GO_OFFLINE)
        alice.wait_until("document.body.innerText.includes('2 missed messages recovered')")
        alice.run(UNFOLD)
        alice.wait_until("document.querySelector('#frames pre')")
        alice.run(SCROLL)
        alice.wait_until("document.querySelector('#latency').innerText")
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            alice.call("Emulation.setEmulatedMedia", features=[feature])
            picture = alice.call("Page.captureScreenshot", format="webp", quality=80)["data"]
            (DOCS / f"page-{scheme}.webp").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
