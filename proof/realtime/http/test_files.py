"""Files of the client, of the page and of the documents in a browser's cache."""

from http import HTTPStatus

import pytest

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
