"""Scripts of ours that run on a machine, for tests that run them here."""

from pathlib import Path

from gpujob.api.transport import MACHINE_FOLDER


def here(script: str, folder: Path) -> str:
    """Returns a script that finds below a folder what a machine has at fixed places."""
    places = {
        MACHINE_FOLDER: "state",
        "/proc/meminfo": "meminfo",
        "/sys/fs/cgroup": "cgroup",
        "/run/gpu-load": "gpu-load",
    }
    for place, name in places.items():
        script = script.replace(place, str(folder / name))
    return script
