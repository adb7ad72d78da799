"""Accessibility of a page, as axe sees it."""

from .browser import Page
from .venv import npm_directory

AXE = "axe-core@4.14.1"

VIOLATIONS = """
const { violations } = await axe.run({ rules: { "target-size": { enabled: true } } }); // WCAG 2.5.8
return violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]);
"""


def check_accessible(page: Page) -> None:
    """Check a page as it is now, in a wide window and on a phone."""
    script = npm_directory(AXE) / "node_modules" / "axe-core" / "axe.min.js"
    page.run(script.read_text(encoding="utf-8"))
    for width in (1280, 360):
        page.resize(width)
        violations = page.run(VIOLATIONS)
        assert not violations, violations
        fits = page.run("return document.documentElement.scrollWidth <= innerWidth")
        assert fits, f"wider than {width}"
