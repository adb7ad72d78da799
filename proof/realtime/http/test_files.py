"""Files of the client, of the page and of the documents in a browser's cache."""

from http import HTTPStatus

import pytest

from app.realtime.application import DOCS

from ..engine import make_app
from ..live import make_settings, run_app


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/client/client.js", "/docs/start.js"])
async def test_a_browser_asks_again_whether_a_file_has_changed(path: str) -> None:
    async with run_app(make_app(make_settings(environment="development"))) as live:
        first = await live.get(path)
        known = {"If-None-Match": first.headers["ETag"]}
        async with live.http() as http:
            again = await http.get(path, headers=known)
    assert first.status_code == HTTPStatus.OK
    assert first.headers["Cache-Control"] == "no-cache"
    if path != "/":
        assert again.status_code == HTTPStatus.NOT_MODIFIED
        assert again.headers["Cache-Control"] == "no-cache"


async def test_the_redirect_to_a_page_names_no_host() -> None:
    pages = [page.parent.relative_to(DOCS.parent) for page in DOCS.rglob("index.html")]
    assert len(pages) > 1
    async with run_app(make_app(make_settings(environment="development"))) as live:
        for page in pages:
            redirect = await live.get(f"/{page}")
            assert redirect.headers["Location"] == f"{page.name}/"
