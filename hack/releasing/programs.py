"""Runs the programs that a release needs."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

from localcluster import binaries
from localcluster.paths import environment


class ReleaseError(Exception):
    """The release must stop. The message says why and what to do."""


def run(
    command: list[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    joined: bool = False,
) -> str:
    """Runs a program and returns its standard output; raises ReleaseError with its errors.

    With `joined` the result includes standard error, where some programs print their result.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment() | dict(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if joined else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        name = " ".join([Path(command[0]).name, *command[1:3]])
        complaint = (done.stdout if joined else done.stderr).strip()[-4000:]
        raise ReleaseError(f"{name} … failed with exit code {done.returncode}:\n{complaint}")
    return done.stdout


def tool(name: str) -> str:
    """Returns the path of actionlint, crane or cosign, built from its pinned module if needed."""
    return _built(next(program for program in binaries.RELEASE if program.name == name))


def helm() -> str:
    """Returns the path of helm 4, built from its pinned module if needed.

    Helm 3 ignores SOURCE_DATE_EPOCH, see https://github.com/helm/helm/issues/31439.
    """
    return _built(binaries.CHART[1])


def _built(program: binaries.Program) -> str:
    with redirect_stdout(sys.stderr):  # standard output is for the result of the command
        return str(binaries.ensure((program,)) / program.name)
