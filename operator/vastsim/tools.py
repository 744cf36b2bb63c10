"""Programs and files that stand in for hardware that a simulated machine does not have.

Its SSH server, shell, processes and disk are real; its GPUs, number of cores, memory and the speed
of its disk are not.
"""

from vastsim.offers import Facts

OWN_NAMES = {
    "A100 PCIE": "NVIDIA A100-PCIE-40GB",
    "H100 PCIE": "NVIDIA H100 PCIe",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
    "H200 NVL": "NVIDIA H200 NVL",
    "L40S": "NVIDIA L40S",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "Tesla V100": "Tesla V100-SXM2-16GB",
}
"""The names that GPUs report themselves, by their name on the market."""

MISLABELLED = "NVIDIA GeForce GTX 1060 6GB"
BROKEN = "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"
SLOW_SECONDS = 3
"""How long each call of `dd` takes at least on a machine with a slow disk."""
_DD = """
case $* in *'/probe bs=1048576 '*)
  for one; do shift; [ "$one" != bs=1048576 ] || one=bs=4096; set -- "$@" "$one"; done;;
esac
PATH=/usr/bin:/bin exec dd "$@"
"""
"""A driver's probe of the disk writes little: the rest took a fifth of a second of a processor for
each machine, more than all else that it does."""


def nvidia_smi(facts: Facts, *, is_mislabelled: bool = False, is_broken: bool = False) -> str:
    """Returns a script that answers the queries that clients make.

    The load that its GPUs report is read from the machine's file `/run/gpu-load`, in percent.
    """
    if is_broken:
        return f"#!/bin/sh\necho '{BROKEN}'\nexit 15\n"
    name = MISLABELLED if is_mislabelled else OWN_NAMES.get(facts.gpu_name, facts.gpu_name)
    memory = 6144 if is_mislabelled else facts.gpu_ram_mib
    count = facts.num_gpus
    listed = "\n".join(f"GPU {number}: {name} (UUID: GPU-{number:032x})" for number in range(count))
    sizes = "\n".join([f"{name}, {memory}"] * count)
    return f"""#!/bin/sh
case "$*" in
  -L) cat <<'EOF'
{listed}
EOF
  ;;
  *utilization.gpu*)
    load=$(cat /run/gpu-load 2>/dev/null || echo 0)
    n=0; while [ $n -lt {count} ]; do echo "$load, 512"; n=$((n + 1)); done ;;
  *memory.total*) cat <<'EOF'
{sizes}
EOF
  ;;
  *) echo "| Driver Version: {facts.driver}      CUDA Version: {facts.cuda_max_good} |" ;;
esac
"""


def tools(facts: Facts, *, is_mislabelled: bool, is_broken: bool, is_slow: bool) -> dict[str, str]:
    """Returns the texts of the machine's stand-in programs by name."""
    pause = f"sleep {SLOW_SECONDS}" if is_slow else ""
    return {
        "dd": f"#!/bin/sh\n{pause}{_DD}",
        "nvidia-smi": nvidia_smi(facts, is_mislabelled=is_mislabelled, is_broken=is_broken),
        "nproc": f"#!/bin/sh\necho {int(facts.cpu_cores_effective)}\n",
    }


def meminfo(facts: Facts) -> str:
    """Returns the text that stands in for /proc/meminfo."""
    share = facts.cpu_cores_effective / facts.cpu_cores
    total = int(facts.cpu_ram * share * 1000 * 1000 / 1024)
    return f"MemTotal: {total} kB\nMemFree: {total} kB\nMemAvailable: {total} kB\n"
