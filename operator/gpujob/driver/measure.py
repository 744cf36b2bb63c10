"""The script with which a machine measures itself before it gets work, and the reading of it.

It needs `sh` and the tools of any image. What it cannot find out, it leaves out.
"""

import re
from collections.abc import Iterable

from gpujob.api.transport import MACHINE_FOLDER, Gpu, Measured, WatchdogClient
from gpujob.api.words import in_words
from gpujob.driver.supervisor import ALIVE

MEASURE_SECONDS = 60.0
"""A measure takes about two seconds; with a GPU that hangs or a very slow disk, far longer."""

# GNU's nproc prints what OpenMP is told, which start-up files may export. HTTP clients are tried in
# the order of the start script. At most 64 MiB are written, for at most 5 s; /proc/uptime has
# hundredths of seconds, which not every `date` has.
_SCRIPT = r"""
g=@FOLDER@; mkdir -p "$g"
unset OMP_NUM_THREADS OMP_THREAD_LIMIT
smi() { if command -v timeout >/dev/null; then timeout 20 nvidia-smi "$@"; else nvidia-smi "$@"; fi; }
if command -v nvidia-smi >/dev/null; then
  if said=$(smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>&1); then
    printf '%s\n' "$said" | while IFS= read -r line; do echo "gpu $line"; done
    smi -L 2>/dev/null |
      { n=0; while read -r w _; do [ "$w" = GPU ] && n=$((n + 1)); done; echo $n; } > "$g/gpus"
  else printf 'gpu-problem %s\n' "$(printf '%s' "$said" | tail -n 1)"; fi
  smi 2>/dev/null | while IFS= read -r line; do
    case $line in *'CUDA Version: '*) line=${line#*CUDA Version: }; echo "cuda ${line%%[!0-9.]*}";; esac
  done
else echo 'gpu-problem nvidia-smi is not there'; fi
cores() { n=0; while read -r w _; do [ "$w" = processor ] && n=$((n + 1)); done < /proc/cpuinfo; echo $n; }
echo "cores $(nproc 2>/dev/null || cores)"
while read -r k v _; do case $k in MemTotal:) echo "memory $v";; MemAvailable:) echo "free $v";; esac; done < /proc/meminfo
c=/sys/fs/cgroup
for f in "$c/memory.max" "$c/memory/memory.limit_in_bytes"; do [ -r "$f" ] && echo "limit $(cat "$f")"; done
for f in "$c/memory.current" "$c/memory/memory.usage_in_bytes"; do [ -r "$f" ] && echo "used $(cat "$f")"; done
for f in "$c/memory.stat" "$c/memory/memory.stat"; do [ -r "$f" ] && while read -r k v; do
  case $k in inactive_file|total_inactive_file) echo "cached $v";; esac
done < "$f"; done
echo "disk $(df -Pk "$g" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2,4)"
read -r t0 _ < /proc/uptime; n=0; s=${t0%.*}
while [ $n -lt 8 ]; do
  dd if=/dev/zero of="$g/probe" bs=1048576 count=8 seek=$((n * 8)) conv=notrunc,fsync 2>/dev/null || break
  n=$((n + 1)); read -r t1 _ < /proc/uptime; [ $((${t1%.*} - s)) -ge 5 ] && break
done
rm -f "$g/probe"; echo "write $((n * 8388608)) $t0 ${t1:-$t0}"
if command -v curl >/dev/null; then echo 'client curl'
elif command -v python3 >/dev/null; then echo 'client python3'
elif case $(wget --help 2>&1) in *--method*) ;; *) false;; esac; then echo 'client wget'
elif perl -MHTTP::Tiny -MIO::Socket::SSL -e 1 2>/dev/null; then echo 'client perl'; fi
n=0
while [ $n -lt 5 ]; do
  p=$(cat "$g/watchdog.pid" 2>/dev/null)
  if [ -n "$p" ] && alive "$p"; then echo watchdog; break; fi
  n=$((n + 1)); sleep 1
done
exit 0
"""  # noqa: E501

MEASURE_SCRIPT = ALIVE + _SCRIPT.replace("@FOLDER@", MACHINE_FOLDER)

MIB = 2**20
GPUS_MAX = 64
_DIGITS = re.compile(r"[0-9]{1,15}")
"""Up to a petabyte in bytes. cgroups of version 1 write a longer number where there is no limit."""
_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")


def parse_measure(output: bytes) -> Measured:
    """Reads the script's output; raises ValueError."""
    try:
        return _measured(output.decode("utf-8", "replace").splitlines())
    except KeyError as error:
        raise ValueError(f"the machine did not report its {error}") from None


def _measured(lines: Iterable[str]) -> Measured:
    facts: dict[str, str] = {}
    gpus: list[Gpu] = []
    problem = remark = ""
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "gpu":
            name, _, size = value.rpartition(",")
            if name and _DIGITS.fullmatch(size.strip()):
                gpus.append(Gpu(name=in_words(name, 64), memory_mib=_number(size)))
            elif name:
                problem = in_words(value, 200)
            else:
                # A warning: of a linker, or of memory that only describes the board.
                remark = in_words(value, 200)
        elif key == "gpu-problem":
            problem = in_words(value, 200) or "nvidia-smi failed without a message"
        else:
            facts[key] = value
    memory = _number(facts["memory"]) * 1024
    free = min(_number(facts.get("free", "0")) * 1024, memory)
    limit = facts.get("limit", "max").strip()
    if _DIGITS.fullmatch(limit) and _number(limit) < memory:
        memory = _number(limit)
        # The cache of files is given up when a process needs memory.
        used = max(_number(facts.get("used", "0")) - _number(facts.get("cached", "0")), 0)
        free = min(free, max(memory - used, 0))
    disk, disk_free = (_number(number) // 1024 for number in facts["disk"].split())
    return Measured(
        gpus=tuple(gpus[:GPUS_MAX]),
        gpu_problem=problem or ("" if gpus else remark),
        cuda_version=facts.get("cuda"),
        cpu_cores=_number(facts["cores"]),
        memory_mib=memory // MIB,
        memory_free_mib=free // MIB,
        disk_mib=disk,
        disk_free_mib=disk_free,
        disk_write_mbps=_speed(facts["write"]),
        watchdog_client=WatchdogClient(facts["client"]) if "client" in facts else None,
        watchdog_runs="watchdog" in facts,
    )


def _number(text: str) -> int:
    """Reads a number; raises ValueError for one that no machine has."""
    if not _DIGITS.fullmatch(text.strip()):
        raise ValueError(f"{text[:40]!r} is not a number that can be")
    return int(text)


def _speed(text: str) -> float:
    written, began, ended = text.split()
    if not (_SECONDS.fullmatch(began) and _SECONDS.fullmatch(ended)):
        raise ValueError(f"{text[:80]!r} is not a time that can be")
    # The clock has steps of this size.
    seconds = max(float(ended) - float(began), 0.01)
    return min(_number(written) / seconds / 1e6, 1e6)
