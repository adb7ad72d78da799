"""The Valkey that a project's tests use."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from .process import check_output
from .project import Project
from .venv import venv_bin

SERVER_PATH = "from tests.realtime.redis.valkey import server_path; print(server_path())"


def server_path(project: Project) -> Path:
    """Return the program."""
    python = venv_bin(project) / "python"
    return Path(check_output([python, "-B", "-c", SERVER_PATH], project.root).strip())


@contextlib.contextmanager
def run_valkey(project: Project) -> Iterator[str]:
    """Run it, and yield its URL."""
    with TemporaryDirectory() as directory:
        path = f"{directory}/valkey.sock"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", directory]
        command = [str(server_path(project)), *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                yield f"unix://{path}"
            finally:
                process.kill()
