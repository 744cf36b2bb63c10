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
    # The true `dd`, on a true disk.
    assert measured.disk_write_mbps > 0


def test_cores_are_those_of_the_machine(tmp_path: Path) -> None:
    """Not what start-up files tell OpenMP, and GNU's nproc prints."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/watchdog.pid").write_text(f"{os.getpid()}")
    done = subprocess.run(
        [
            "sh",
            "-c",
            here(MEASURE_SCRIPT, tmp_path).replace(str(tmp_path / "meminfo"), "/dev/null"),
        ],
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "777", "OMP_THREAD_LIMIT": "666"},
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert f"cores {len(os.sched_getaffinity(0))}" in done.stdout.decode().splitlines()


HONEST = {
    "gpu": "NVIDIA RTX 4090, 24564",
    "cuda": "12.4",
    "cores": "16",
    "memory": "65536000",
    "free": "60000000",
    "limit": "8388608000",
    "used": "1000",
    "cached": "500",
    "disk": "100000000 90000000",
    "write": "67108864 100.00 101.00",
    "client": "curl",
}


@pytest.mark.parametrize(
    "number", ["9" * 400, "9" * 5000, "-1", "1e999", "nan", "inf", "٣", "1" * 19, "", " ", "0x10"]
)
@pytest.mark.parametrize("key", [key for key in HONEST if key != "client"])
def test_no_number_of_a_machine_ends_the_driver(key: str, number: str) -> None:
    """It is bounded, left out, or not understood."""
    said = HONEST | {key: HONEST[key].replace(HONEST[key].split()[-1], number)}
    if key in ("write", "disk"):
        said[key] = " ".join([number, *HONEST[key].split()[1:]])
    try:
        measured = parse_measure("".join(f"{k} {v}\n" for k, v in said.items()).encode())
    except ValueError:
        return

    assert measured.wire()
    assert 0 <= measured.memory_free_mib <= measured.memory_mib <= 2**53
    assert all(0 <= gpu.memory_mib <= 2**53 for gpu in measured.gpus)
    assert 0 <= measured.disk_write_mbps <= 1e6


WARNINGS = [
    "WARNING: infoROM is corrupted at gpu 0000:04:00.0",
    "ERROR: ld.so: object '/x.so' from LD_PRELOAD cannot be preloaded: ignored.",
]


@pytest.mark.parametrize("warning", WARNINGS)
def test_a_warning_beside_gpus_is_no_problem_of_theirs(warning: str) -> None:
    """Only where none is listed it is what is told; what stands in a GPU's own line counts."""
    facts = "".join(f"{key} {value}\n" for key, value in HONEST.items() if key != "gpu")
    gpu = f"gpu {HONEST['gpu']}\n"
    for listed in (f"gpu {warning}\n{gpu}{gpu}", f"{gpu}{gpu}gpu {warning}\n"):
        measured = parse_measure((listed + facts).encode())
        assert (len(measured.gpus), measured.gpu_problem) == (2, "")
    assert parse_measure(f"gpu {warning}\n{facts}".encode()).gpu_problem == warning
    lost = "gpu NVIDIA A100-SXM4-80GB, [GPU is lost]\n"
    told = parse_measure((lost + gpu + facts).encode()).gpu_problem
    assert told == "NVIDIA A100-SXM4-80GB, [GPU is lost]"
