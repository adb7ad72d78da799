"""The engine of the project is proved.

Nearly all of the proof is about what lies below authentication. It runs with every combination of
the other options, but with one kind of authentication; what needs another kind runs with that.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from proof.overlay import PLUGIN, TARGET, files, lay_over, needed
from tests.combination import COMBINATIONS, Combination
from tests.project import Project

from .suite import FULL, run_tests


def proving_tests(combination: Combination) -> list[Path]:
    """Return the modules of the proof that run with this combination."""
    auth = str(dict(combination.answers)["auth"])
    modules = [path for path in files(set(combination.options)) if path.match("test_*.py")]
    return [TARGET / path for path in modules if auth == FULL or auth in needed(path)]


PROVED = [combination for combination in COMBINATIONS if proving_tests(combination)]


def check_proof(project: Project) -> None:
    """Run the proof in a copy; no test may fail or be skipped."""
    with TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        lay_over(copy.root)
        run_tests(copy, ["-p", PLUGIN, *proving_tests(project.combination)])
