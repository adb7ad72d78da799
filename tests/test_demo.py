"""`make demo` makes the default project, and shows its page."""

import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from .combination import DEFAULT, TEMPLATE
from .conftest import Baker
from .process import end_group, environment
from .project import copy_template
from .test_nodes import STARTS, TAKEN
from .venv import copy_venv
from .waiting import DEADLINE_S, wait_until

LINK = re.compile(r"^(http://127\.0\.0\.1:\d+/)#node=\d+$", re.MULTILINE)


def shown_page(directory: Path) -> tuple[list[str], str] | None:
    """Run the demo, and return its links and page; None if another process has taken a port."""
    log = directory / "demo.log"
    command = ["make", "--old-file=.venv/ready", "demo", f"PYTHON={sys.executable}"]
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment(PORT="0", HOME=str(directory / "home")),
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):

        def printed() -> str:
            return log.read_text(encoding="utf-8")

        try:
            wait_until(
                lambda: process.poll() is not None or printed().count("Uvicorn running") == 2,
                told=printed,
            )
            if process.poll() is not None:
                assert TAKEN in printed(), printed()
                return None
            links = LINK.findall(printed())
            assert len(links) == 2, printed()
            assert "installing" not in printed(), "the environment of the earlier demo is lost"
            with urllib.request.urlopen(links[0], timeout=DEADLINE_S) as answer:  # noqa: S310
                return links, answer.read().decode()
        finally:
            try:
                process.terminate()  # make passes it on to the nodes, and waits for them
                wait_until(lambda: process.poll() is not None, told=printed)
            finally:
                end_group(process)


def test_the_demo_shows_the_page(baked: Baker, tmp_path: Path) -> None:
    copy_template(tmp_path)
    shutil.copy(TEMPLATE / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(TEMPLATE / ".venv")
    # An earlier demo: its environment is taken again.
    copy_venv(baked(DEFAULT).copy(tmp_path / "demo"))
    for _ in range(STARTS):
        if shown := shown_page(tmp_path):
            links, page = shown
            assert "<title>" in page
            for link in links:
                with pytest.raises(URLError, match="refused"):  # the node has ended
                    urllib.request.urlopen(link, timeout=DEADLINE_S)  # noqa: S310
            return
    pytest.fail(f"{STARTS} times, another process has taken a port")
