"""How the programs of a release are run."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

from localcluster import binaries
from localcluster.paths import environment


class ReleaseError(Exception):
    """A step of the release must not go on; says why and what to do."""


def run(
    command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Runs a program and returns what it printed; raises ReleaseError with its complaint."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment() | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        name = " ".join([Path(command[0]).name, *command[1:3]])
        raise ReleaseError(f"{name} … ended with {done.returncode}:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def tool(name: str) -> str:
    """Returns the path of actionlint, crane or cosign, built from its pinned module if need be."""
    return _built(next(program for program in binaries.RELEASE if program.name == name))


def helm() -> str:
    """Returns the path of helm, built from its pinned module if need be."""
    return _built(binaries.CHART[0])


def _built(program: binaries.Program) -> str:
    with redirect_stdout(sys.stderr):  # what a command prints is its result
        return str(binaries.ensure((program,)) / program.name)
