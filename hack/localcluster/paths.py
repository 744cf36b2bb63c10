"""Paths: a cache outside the work tree, and a state folder for each cluster."""

import os
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
ROOT = SOURCES.parent.parent

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
    """Returns the folder of one cluster; it need not exist."""
    return cache() / "clusters" / name


def environment() -> dict[str, str]:
    """Returns an environment with which no program writes to the user's home."""
    return os.environ | {"KUBECACHEDIR": str(cache() / "kubectl"), "GOTOOLCHAIN": "local"}
