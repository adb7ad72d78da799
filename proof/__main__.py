"""Prove the engine of a project: ``python -m proof prove``, ``chaos`` or ``scale``; see ``--help``.

The commands copy the project and install the packages that its lock file pins. They run the engine
with its default policy, so the team's code and database are not needed.
"""

import argparse
import itertools
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.process import end_group, environment

from .arguments import ArgumentParser
from .overlay import PLUGIN, TARGET, lay_over
from .project import Unavailable, answers_of, bake_default, copy_project, options_of, python_of

LONG = {"FUZZ_EXAMPLES": "10000", "LEAK_CYCLES": "10000"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; the arguments after ``--`` are for pytest or the trial."""
    own = list(itertools.takewhile(lambda argument: argument != "--", arguments))
    parser = ArgumentParser(prog="make", description="Prove the engine of a project.")
    parser.add_argument("command", choices=["prove", "chaos", "scale"])
    parser.add_argument(
        "--project", default="", metavar="PATH", help="default: a new one with the default answers"
    )
    parser.add_argument("--long", action="store_true", help="prove: more examples and leak cycles")
    parser.set_defaults(arguments=arguments[len(own) + 1 :])
    return parser.parse_args(own)


def prove(root: Path, python: Path, options: argparse.Namespace) -> int:
    """Run the engine's tests and the proof; return the exit status."""
    command = [str(python), "-m", "pytest", "-p", PLUGIN, "--numprocesses", "auto"]
    if options.long:
        command += ["--override-ini", "faulthandler_timeout=0"]
    env = environment(**LONG if options.long else {})
    return call([*command, *options.arguments, str(TARGET)], root, env)


def try_out(root: Path, python: Path, options: argparse.Namespace) -> int:
    """Run the trial of chaos or of scale; return the exit status."""
    module = ".".join([*TARGET.parts, options.command])
    return call([str(python), "-m", module, *options.arguments], root, environment())


def call(command: Sequence[str], root: Path, env: Mapping[str, str]) -> int:
    """Run a command and return its exit status. All its processes end with this one."""
    with subprocess.Popen(command, cwd=root, env=env, encoding="utf-8", process_group=0) as process:
        try:
            return process.wait()
        except BaseException:
            end_group(process)
            raise


def run(options: argparse.Namespace) -> int:
    """Run the command on a copy of the project; return the exit status.

    Raises:
        Unavailable: there is no project, or it lacks what the command needs.
    """
    with TemporaryDirectory() as directory:
        root, new = Path(directory, "project"), Path(directory, "new")
        project = Path(options.project).absolute() if options.project else bake_default(new)
        chosen = options_of(answers_of(project))
        if options.command != "prove" and not chosen >= {"rooms", "redis"}:
            message = f"{project}: {options.command} needs a project with rooms and Redis"
            raise Unavailable(message)
        python = python_of(project)
        copy_project(project, root)
        lay_over(root)
        status = (prove if options.command == "prove" else try_out)(root, python, options)
    if options.command == "prove":
        result = "passed" if status == 0 else "FAILED, see above"
        print(f"proof of {project.name} ({', '.join(sorted(chosen))}): {result}")
    return status


def main() -> None:
    """Run the command; report a failure in one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(run(parse(sys.argv[1:])))
    except Unavailable as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")


if __name__ == "__main__":
    main()
