"""The proof passes for the project's engine.

A module of the proof runs with all `EXTRAS`, and a second time with only the extras that it needs.
The second run is left out for modules in `ONCE`, and where only the heartbeat would be missing. The
kind of authentication is the one that the module needs, or else `FULL`. Modules in `CREDENTIALS`
also run with every other kind, together with all extras.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from proof.overlay import PLUGIN, TARGET, files, lay_over, needed
from tests.combination import COMBINATIONS, QUESTIONS, Combination
from tests.project import Project

from .suite import EXTRAS, FULL, run_tests

ONCE = (
    "test_asgi.py",
    "test_autobahn.py",
    "test_connection.py",
    "test_expiring.py",
    "test_frames.py",
    "test_futures.py",
    "test_groups.py",
    "test_jobs.py",
    "test_origin.py",
    "test_renewal.py",
    "test_repeated_requests.py",
    "test_turns.py",
)
"""Modules about a part of the engine that is the same in every project."""

CREDENTIALS = ("test_privacy.py",)
"""Modules that test credentials of every kind."""

AUTH = frozenset(QUESTIONS["auth"])

HEARTBEAT = {"heartbeat"}


def proving_tests(combination: Combination) -> list[Path]:
    """Return the modules of the proof that run with this combination."""
    options = set(combination.options)
    modules = [path for path in files(options) if path.match("test_*.py")]
    return [TARGET / path for path in modules if _runs(path, options)]


def _runs(module: Path, options: set[str]) -> bool:
    needs, extras = needed(module), options & EXTRAS
    if options & AUTH == (needs & AUTH or {FULL}):
        is_least = extras == needs & EXTRAS and module.name not in ONCE
        return extras == EXTRAS or (is_least and EXTRAS - extras != HEARTBEAT)
    return module.name in CREDENTIALS and extras == EXTRAS


PROVED = [combination for combination in COMBINATIONS if proving_tests(combination)]


def check_proof(project: Project) -> None:
    """Run the proof in a copy; no test may fail or be skipped."""
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        lay_over(copy.root)
        run_tests(copy, ["-p", PLUGIN, *proving_tests(project.combination)])
