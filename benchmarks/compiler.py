"""Compiles C files into the cache, with ``$CC``, ``cc`` or the compiler in ``ziglang``."""

import functools
import hashlib
import os
import shlex
import shutil
from pathlib import Path

from proof.project import Unavailable
from tests.process import environment, run

from .environment import CACHE, COMPILER_LOCK, lock_python

FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
LIBRARY = ("-shared", "-fPIC")


@functools.cache
def compiler(*, install: bool = True) -> tuple[str, ...]:
    """Return the command of a C compiler; install one if necessary and allowed.

    Raises:
        Unavailable: there is no compiler.
    """
    command = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(command[0]):
        return tuple(command)
    if not install:
        message = f"there is no C compiler: {command[0]} is not on PATH; install gcc or clang"
        raise Unavailable(message)
    return (str(lock_python(COMPILER_LOCK)), "-m", "ziglang", "cc")


def compiled(source: Path, *flags: str, install: bool = True) -> Path:
    """Compile a C file to a program, or with the flags of a library to a library.

    Raises:
        Unavailable: there is no compiler, or the compilation fails.
    """
    command = (*compiler(install=install), *FLAGS, *flags)
    key = "\0".join([source.read_text(encoding="utf-8"), *command])
    target = CACHE / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    # Another process may compile the same file.
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    env = environment(ZIG_GLOBAL_CACHE_DIR=str(CACHE / "zig"))
    done = run([*command, "-o", partial, source], CACHE, env=env)
    if done.returncode != 0:
        message = f"{' '.join(command)} cannot compile {source.name}:\n{done.stderr.strip()}"
        raise Unavailable(message)
    partial.replace(target)
    return target
