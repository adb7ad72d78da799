"""Static files: the client, the page and the documents."""

from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles


class RevalidatedFiles(StaticFiles):
    """Static files that browsers revalidate before each use: a deployment may change them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return the file, or 304 to a browser that has it (RFC 9111 §5.2.2.4)."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response
