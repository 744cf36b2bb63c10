"""Paths: a cache outside the work tree, and a state folder for each cluster."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
ROOT = SOURCES.parent.parent

NAME = re.compile("[a-z][a-z0-9-]{0,59}")
"""Of a state folder, which may add a few letters to the name of its cluster."""

FORBIDDEN = ("/run", "/var/lib", "/var/log")
"""The node mounts its own tmpfs on these folders, which hides what the host has there."""


def cache() -> Path:
    """Returns the cache: `GPUJOB_CACHE`, or by default gpujob in the user's cache folder."""
    given = os.environ.get("GPUJOB_CACHE")
    base = Path(given) if given else _user_cache() / "gpujob"
    if any(str(base.resolve()).startswith(folder + "/") for folder in FORBIDDEN):
        raise SystemExit(
            f"cluster: GPUJOB_CACHE is {base}; it must not be below {', '.join(FORBIDDEN)}"
        )
    base.mkdir(parents=True, exist_ok=True)
    return base


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def state(name: str) -> Path:
    """Returns the folder of one cluster, which need not exist; raises SystemExit for a bad name."""
    if not NAME.fullmatch(name):
        words = "use at most 40 lower-case letters, digits and hyphens, and begin with a letter"
        raise SystemExit(f"cluster: {name!r} cannot be the name of a cluster; {words}")
    return cache() / "clusters" / name


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps other processes out that take the same lock, so that nothing is made twice at once.

    Look only within it whether the thing is there: another process may just have made it.
    """
    folder = cache() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, str]:
    """Returns an environment with which no program writes to the user's home."""
    return os.environ | {"KUBECACHEDIR": str(cache() / "kubectl"), "GOTOOLCHAIN": "local"}
