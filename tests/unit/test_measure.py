"""A machine measures itself: the script as it runs there, in a container with a limit of memory."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.here import here

from gpujob.driver.measure import MEASURE_SCRIPT, parse_measure

MEMINFO = "MemTotal: 65536000 kB\nMemFree: 1000 kB\nMemAvailable: 60000000 kB\n"
MIB = 2**20


@pytest.mark.parametrize(
    ("files", "memory_mib", "free_mib"),
    [
        ({}, 64_000, 58_593),
        ({"memory.max": "max", "memory.current": "1"}, 64_000, 58_593),
        (
            {
                "memory.max": f"{8000 * MIB}",
                "memory.current": f"{5000 * MIB}",
                "memory.stat": f"anon 1\ninactive_file {4000 * MIB}\nslab 3\n",
            },
            8000,
            7000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": f"{8000 * MIB}",
                "memory/memory.usage_in_bytes": f"{5000 * MIB}",
                "memory/memory.stat": f"cache 1\ninactive_file 0\ntotal_inactive_file {MIB}\n",
            },
            8000,
            3001,
        ),
    ],
)
def test_what_only_caches_files_is_free(
    tmp_path: Path, files: dict[str, str], memory_mib: int, free_mib: int
) -> None:
    """Within the container's limit, of either version of cgroups."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "cgroup/memory").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    # A watchdog that is there at once: none is waited for.
    (tmp_path / "state").mkdir()
    (tmp_path / "state/watchdog.pid").write_text(f"{os.getpid()}")
    done = subprocess.run(
        ["sh", "-c", here(MEASURE_SCRIPT, tmp_path)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
        timeout=60,
    )
    measured = parse_measure(done.stdout)

    assert (measured.memory_mib, measured.memory_free_mib) == (memory_mib, free_mib)
