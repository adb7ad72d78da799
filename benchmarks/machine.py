"""The class of the machine, and the versions of all software in the benchmark."""

import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from proof.project import Unavailable
from tests.process import run

from .compiler import compiler
from .environment import CACHE, valkey_server
from .processes import Cores
from .servers import Server

VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


def pinning(cores: Cores) -> str:
    """Return a sentence on the cores of servers and generator."""
    if cores.server is None:
        return f"Nothing is pinned to a core: {cores.reason}"
    return "Each server runs on one core, the load generator on another"


def machine() -> Iterator[tuple[str, str]]:
    """Yield the class of the machine, without anything that identifies it."""
    info = _cpu_info()
    virtual = " (virtual)" if "hypervisor" in info.get("flags", "").split() else ""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "processor", f"{info.get('model name', platform.machine())}{virtual}"
    yield "cores, memory", f"{os.cpu_count()}, {gib:.0f} GiB"
    yield "system", f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"


def versions(servers: Iterable[Server]) -> dict[str, str]:
    """Return the versions of the software by name.

    Raises:
        Unavailable: one of the servers is not installed.
    """
    found = {"Python": platform.python_version(), "C compiler": _first_line(*compiler())}
    for server in servers:
        program = server.prepare()
        if program.command[0] == "node":
            found["Node.js"] = _first_line("node").removeprefix("v")
            package = (program.cwd / "package.json").read_text(encoding="utf-8")
            found |= json.loads(package)["dependencies"]
        elif server.packages:
            done = run([program.command[0], "-c", VERSIONS, *server.packages], CACHE)
            found |= dict(zip(server.packages, done.stdout.split(), strict=True))
    with suppress(Unavailable):
        valkey = valkey_server()
        found[Path(valkey).name] = " ".join(re.findall(r"\bv=(\S+)", _first_line(valkey)))
    return found


def _first_line(*command: str) -> str:
    return run([*command, "--version"], CACHE).stdout.partition("\n")[0]


def _cpu_info() -> dict[str, str]:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition(":") for line in lines if ":" in line)
        return {name.strip(): value.strip() for name, _, value in pairs}
    return {}
