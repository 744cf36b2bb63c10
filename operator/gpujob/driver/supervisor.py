"""The scripts that run on the machine: POSIX shell, sent over SSH's input, never on a command line.

`launch` starts the workload at most once: the folder of the attempt is made by an atomic `mkdir`,
and only its maker goes on. If the maker dies before it has started the workload, the folder stays
without a `started` file; a later driver sees that after a while, and reports it instead of
starting a second workload. `follow` prints a file from an offset on, until the workload has ended
and everything was printed. `look` prints how the workload is, and is a heartbeat for the machine's
watchdog. `stop` asks the workload to end, `kill` ends it.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pydantic import ValidationError

from gpujob.api.transport import MACHINE_FOLDER, Cause, Progress

LAUNCH_PATIENCE_SECONDS = 30

PROGRESS_VARIABLE = "GPUJOB_PROGRESS_FILE"
"""Names the file to which a workload may append lines of JSON, as `{"percent": 40, "step": 1200,
"remainingSeconds": 900, "metrics": {"loss": 0.31}}`; the last line counts."""

SHELLS_OWN = (
    *("_", "IFS", "ENV", "PWD", "OLDPWD", "PPID", "SHLVL", "LINENO", "RANDOM", "SECONDS", "OPTIND"),
    *("OPTARG", "OPTERR", "PS[0-9]", "UID", "EUID", "GID", "EGID", "BASH*", "SHELLOPTS"),
    *("POSIXLY_CORRECT", "EPOCHSECONDS", "EPOCHREALTIME", "SRANDOM", "GROUPS", "DIRSTACK"),
    *("FUNCNAME", "HIST*", "PIPESTATUS", "MAPFILE", "REPLY", "COPROC", "COMP_*", "READLINE_*"),
    *("TMOUT", "KSH*", "USER_ID", "PGRP", "COLUMNS", "LINES", "PATHSEP", "EXECSHELL"),
    *("LANG", "LC_*", "LD_*", "EXECIGNORE", "FUNCNEST"),
)
"""Names, as patterns of a shell, with a meaning in dash, bash, busybox's or MirBSD's shell.
Assigning to one changes the shell, has no effect, or ends it with an error, since no one may set it
(bash manual, Shell Variables); bash warns of a locale that is not there, and what a linker is told
for the workload may be no good for the shell's tools."""

PROVIDERS_OWN = ("CONTAINER_API_KEY", "JUPYTER_TOKEN", "OPEN_BUTTON_TOKEN", "SSH_PUBLIC_KEY")
"""Variables of a container that the provider sets for itself; the first one is a key to its API."""

SECONDS_MAX = 10**9
BYTES_MAX = 2**53 - 1
MEMORY_MIB_MAX = 10**9
"""Of one GPU. Larger numbers than these three do not fit into a report."""

_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENTERS_OWN = ("dir", "home", "env", "path", "mark", "byte", "one", "name")
"""Names that `_ENTER` uses."""
_WHOLE = "# the whole"
"""The last line of a workload's text: to the machine, a line that breaks looks like its end."""
_SET_BY_SHELLS = ("_", "PWD", "OLDPWD", "SHLVL")
"""What shells set for what they start; a container's first process has none of them."""

# A pid says nothing once the container was restarted: pids begin anew, and files stay. So what
# started a run is known by when it started: field 22 of /proc/PID/stat, in ticks since the host's
# boot (proc_pid_stat(5)). The name in field 2 may hold spaces and brackets; the kernel escapes line
# breaks. `born` tells one life of the container from another by its first process and the host's
# boot; where /proc does not say that, it is the same for all of them.
_BORN = r"""
since() {
  ticks=; read -r s 2>/dev/null < "/proc/$1/stat" || return 0
  s=${s##*) }; set -- $s; shift 19; ticks=$1
}
born() { since 1; echo "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null):$ticks"; }
"""

# The workload's own shell reads environment and command from a file that only root can read, and
# removes it: none of it is ever an argument of a process. The supervisor survives a signal to its
# process group (a trap, unlike an ignored signal, is not inherited), so that it can record the end.
# Where the disk is full, removing the reserve makes room for that.
#
# The first `setsid` leads a session, so that the second one forks and returns: what a shell starts
# by `&` would ignore SIGINT and SIGQUIT, and hand that on (POSIX, Shell Command Language, 2.11).
# The workload prints into pipes, as in a container: if its output were a file, to write to
# /dev/stdout or /dev/stderr would empty it. What it leaves running is killed, as in a container:
# else it would go on to write to the files that are being copied. It is known by its environment;
# if some of it is not found, it may hold the pipes open for ever.
_LAUNCH = r"""
umask 077
base=@FOLDER@/runs; mkdir -p "$base"; dir="$base/@RUN@"
if ! mkdir "$dir" 2>/dev/null; then cat >/dev/null; exit 0; fi
@BORN@
born > "$dir/born"
cat > "$dir/work"
[ "$(tail -n 1 "$dir/work")" = '@WHOLE@' ] || { rm -rf "$dir"; exit 1; }
cat > "$dir/enter" <<'ENTER'
@ENTER@
ENTER
cat > "$dir/supervise" <<'SUPERVISE'
cd "$1" || exit 1
trap : TERM INT HUP
@BORN@
since $$; echo "$ticks" > since
kills() {
  for f in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$f" ] && while read -r k v; do [ "$k" = oom_kill ] && echo "$v" && return; done < "$f"
  done
  echo 0
}
smi() { if command -v timeout >/dev/null; then timeout 10 nvidia-smi -L; else nvidia-smi -L; fi; }
gpus() { n=0; while read -r w _; do [ "$w" = GPU ] && n=$((n + 1)); done; echo $n; }
killed=$(kills)
dd if=/dev/zero of=reserve bs=65536 count=4 2>/dev/null
date +%s > began
: > stdout; : > stderr
echo $$ > started.new && mv started.new started
for s in stdout stderr; do
  mkfifo $s.pipe
  (trap '' TERM INT HUP; until cat; do sleep 1; done; rm $s.pipe) < $s.pipe > $s &
done
env -i sh enter "$1" "$HOME" "$PATH" > stdout.pipe 2> stderr.pipe < /dev/null
code=$?
ended=$(date +%s)
for p in $(grep -lzsxF "@PROGRESS@=$1/progress" /proc/[0-9]*/environ); do
  p=${p#/proc/}; kill -KILL "${p%/environ}"
done
n=0
while [ -e stdout.pipe ] || [ -e stderr.pipe ]; do
  [ $n -lt 20 ] || break
  n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1
done
free=$(df -Pk . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
rm -f reserve
echo "$ended" > ended
if [ "$code" != 0 ]; then
  had=$(cat @FOLDER@/gpus 2>/dev/null)
  if [ "$(kills)" != "$killed" ]; then echo OutOfMemory
  elif [ "${free:-1024}" -lt 1024 ]; then echo DiskFull
  elif [ "${had:-0}" -gt 0 ] && [ "$(smi 2>/dev/null | gpus)" -lt "$had" ]; then echo GpuLost
  fi > cause
fi
echo "$code" > exit.new && mv exit.new exit
SUPERVISE
if command -v setsid >/dev/null; then setsid setsid sh "$dir/supervise" "$dir" </dev/null >/dev/null 2>&1
else nohup sh "$dir/supervise" "$dir" </dev/null >/dev/null 2>&1 & fi
exit 0
"""  # noqa: E501

# The workload gets the environment of the container's first process, as the start script has kept
# it, then the job's. Its records end with NUL, which no shell can read: each becomes a line, and a
# line's end within a value becomes a byte that occurs in none of them. What is a shell's own name,
# or no name of a variable at all, is set by `env`, after the shell. The session's own path serves
# until then: the image's might lead to none of the tools that are needed here.
_ENTER = r"""
dir=$1 home=$2 PATH=$3
export PATH
env=$(command -v env)
for byte in 001 002 003 004 005 006; do
  [ "$(tr -dc "\\$byte" < @FOLDER@/environ | wc -c)" -eq 0 ] && break
done
mark=$(printf "\\$byte")
tr "\n\000" "\\$byte\n" < @FOLDER@/environ > "$dir/environ"
set --
while IFS= read -r one; do
  name=${one%%=*}
  case $name in @PROVIDERS@) continue;; esac
  case $one in *"$mark"*) one=$(printf %s. "$one" | tr "\\$byte" "\n"); one=${one%.};; esac
  case $name in
    PATH) path=$one;;
    @OWN@|[0-9]*|*[!A-Za-z0-9_]*|'') set -- "$@" "$one";;
    HOME) export "$one"; home=;;
    *) export "$one";;
  esac
done < "$dir/environ"
rm -f "$dir/environ"
[ -z "$home" ] || export HOME="$home"
umask 022
ulimit -n "$(ulimit -H -n)" 2>/dev/null
. "$dir/work"
"""

# A container's first process may never reap zombies, and a zombie can still be signalled.
ALIVE = (
    _BORN
    + r"""
alive() {
  kill -0 "$1" 2>/dev/null && [ -r "/proc/$1/status" ] || return 1
  [ -z "$2" ] || { since "$1"; [ "$2" = "$ticks" ]; } || return 1
  while read -r k v _; do [ "$k" = State: ] && break; done < "/proc/$1/status"
  [ "$v" != Z ]
}
supervised() {
  p= t=; read -r p 2>/dev/null < "$1/started"; read -r t 2>/dev/null < "$1/since"
  alive "$p" "$t"
}
"""
)
"""Shell functions: `alive PID [START]` is true of a process that runs, and began at START if that
is given; `supervised DIR` of a run whose supervisor runs."""

# Of two drivers the later one gives the orders: the node of the earlier may only have been cut off
# from the cluster, and come back. So a machine heeds none with a lower number than it has heard.
_FENCE = r"""
heard=$(cat @FOLDER@/driver 2>/dev/null)
case $heard in ''|*[!0-9]*) heard=0;; esac
if [ "$heard" -gt @DRIVER@ ]; then echo replaced; exit 0; fi
if [ "$heard" -lt @DRIVER@ ]; then echo @DRIVER@ > @FOLDER@/driver.new && mv @FOLDER@/driver.new @FOLDER@/driver; fi
"""  # noqa: E501

# The heartbeat is written over the one before: a disk that is full takes no new file.
_LOOK = r"""
dir=@FOLDER@/runs/@RUN@
date +%s 1<> @FOLDER@/heartbeat
now=$(date +%s)
began=$(cat "$dir/began" 2>/dev/null)
over() { echo "exited $(cat "$dir/exit") $(($(cat "$dir/ended") - began)) $(cat "$dir/cause" 2>/dev/null)"; }
if [ -e "$dir/exit" ]; then over; now=$(cat "$dir/ended")
elif [ -s "$dir/born" ] && [ "$(cat "$dir/born")" != "$(born)" ]; then echo "restarted $((now - began))"
elif [ -e "$dir/started" ]; then
  if supervised "$dir"; then echo "running $((now - began))"
  elif [ -e "$dir/exit" ]; then over; now=$(cat "$dir/ended")
  else echo "vanished $((now - began))"; fi
elif [ -d "$dir" ]; then echo launching
else echo absent; fi
echo "at $now"
if [ -e @FOLDER@/money.held ]; then echo "money $(cat @FOLDER@/money.held)"; fi
if [ -e "$dir/stderr" ]; then echo "log $(wc -c < "$dir/stdout") $(wc -c < "$dir/stderr")"; fi
if [ -f "$dir/progress" ]; then echo "progress $(tail -c 4096 "$dir/progress" | tail -n 1 | tr '\n' ' ')"; fi
"""  # noqa: E501

_SAMPLE = r"""
smi() { if command -v timeout >/dev/null; then timeout 10 nvidia-smi "$@"; else nvidia-smi "$@"; fi; }
smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits 2>/dev/null |
  while IFS= read -r line; do echo "gpu $line"; done
"""  # noqa: E501

# Each driver that is started later runs them again: only the first time counts.
_STOP = r"""
dir=@FOLDER@/runs/@RUN@
[ -e "$dir/started" ] && [ ! -e "$dir/exit" ] && [ ! -e "$dir/stopping" ] || exit 0
supervised "$dir" || exit 0
date +%s > "$dir/stopping"
pid=$(cat "$dir/started")
kill -s TERM -- "-$pid" 2>/dev/null || kill -TERM $(cat "/proc/$pid/task/$pid/children") 2>/dev/null
exit 0
"""

_KILL = r"""
dir=@FOLDER@/runs/@RUN@
[ -e "$dir/started" ] && [ ! -e "$dir/exit" ] && supervised "$dir" || exit 0
pid=$(cat "$dir/started")
kill -s KILL -- "-$pid" 2>/dev/null || kill -KILL $(cat "/proc/$pid/task/$pid/children") 2>/dev/null
exit 0
"""

# `tail -c +N` and `head -c` copy any byte. Whether the workload has ended is read before the size,
# so that nothing written before the end is missed. Each program that is started costs the machine a
# millisecond or more, so what has been quiet for a second is looked at once a second, but for the
# end, which a shell sees by itself.
_FOLLOW = r"""
cd @FOLDER@/runs/@RUN@ || exit 1
at=@OFFSET@ quiet=0
while :; do
  ended=0; [ -e exit ] && ended=1
  if [ "$ended" = 1 ] || [ $quiet -lt 5 ] || [ $((quiet % 5)) = 0 ]; then
    [ "$ended" = 0 ] && ! supervised . && [ ! -e exit ] && ended=1
    size=$(wc -c < @FILE@)
    if [ "$size" -gt "$at" ]; then
      tail -c +$((at + 1)) @FILE@ | head -c $((size - at)) || exit 1
      at=$((size)) quiet=0; continue
    fi
    [ "$ended" = 1 ] && exit 0
  fi
  if sleep 0.2 2>/dev/null; then quiet=$((quiet + 1)); else sleep 1; quiet=$((quiet + 5)); fi
done
"""


_HELD = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class Look:
    """How the workload is, by one look at the machine."""

    state: str
    """absent, launching, running, exited, vanished (its supervisor was killed), restarted (the
    whole container was) or replaced (the driver was, by another)."""
    run_seconds: int | None = None
    """None = unknown."""
    exit_code: int | None = None
    cause: Cause | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    """How much the workload has written."""
    progress: Progress | None = None
    """None = the workload reported none, or none that can be read."""
    at: int = 0
    """When, by the machine's clock in seconds since 1970; of a workload that has exited, when it
    did. 0 = unknown."""
    money_deadline_seconds: int | None = None
    """What the watchdog was told last and holds to; None = it was told nothing."""
    gpus: tuple[tuple[int, int], ...] = ()
    """Load in percent and MiB in use of each GPU, if they were asked for."""


def run_name(uid: str, number: int) -> str:
    """Returns the folder name of run `number` of a node's workload."""
    return f"{_checked(uid)}-{int(number)}" if number else _checked(uid)


def launch_script(run: str) -> str:
    """Returns the script that starts the workload once; its input is `work_text`."""
    enter = _ENTER.replace("@PROVIDERS@", "|".join((*PROVIDERS_OWN, "GPUJOB_*")))
    enter = enter.replace("@OWN@", "|".join((*SHELLS_OWN, *_ENTERS_OWN)))
    return _script(_LAUNCH.replace("@ENTER@", enter), run)


def work_text(
    command: Sequence[str], working_dir: str | None, environment: Mapping[str, str]
) -> bytes:
    """Returns the shell text that becomes the workload, after `_ENTER` has set its image's part.

    It removes itself first, then sets the job's variables, changes to the folder, and is replaced
    by the command. Any byte but NUL may stand in values. They are not arguments, which every user
    of the machine could read, but for those whose names the shell itself uses: `env` sets them.
    """
    lines = ['rm -f "$dir/work"', f'export {PROGRESS_VARIABLE}="$dir/progress"']
    set_by_env, path = [], '${path+"$path"}'
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a variable")
        assignment = f"{name}={shlex.quote(value)}"
        if name == "PATH":
            path = assignment
        elif any(fnmatchcase(name, pattern) for pattern in (*SHELLS_OWN, *_ENTERS_OWN)):
            set_by_env.append(assignment)
        else:
            lines.append(f"export {assignment}")
    place = shlex.quote(working_dir) if working_dir else f'"$(cat {MACHINE_FOLDER}/cwd)"'
    lines.append(f"mkdir -p -- {place} && cd -- {place} || exit 127")
    unset = " ".join(f"-u {name}" for name in _SET_BY_SHELLS)
    # To `env`, such a program would be one more variable.
    runner = ["nice -n 0"] if "=" in command[0] else []
    words = [f'exec "$env" {unset} "$@"', *set_by_env, path, *runner, *map(shlex.quote, command)]
    lines += [" ".join(words), _WHOLE]
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"


def look_script(
    run: str,
    *,
    samples_gpus: bool,
    money_deadline_seconds: int | None = None,
    driver: int = 1,
) -> str:
    """Returns the script that gives a heartbeat and prints how the workload is.

    It first tells the watchdog another deadline, if one is given. Of all that it does nothing once
    a driver with a higher number was there.
    """
    look = ALIVE + _script(_LOOK, run)
    if money_deadline_seconds is not None:
        file = f"{MACHINE_FOLDER}/money"
        look = f"echo {int(money_deadline_seconds)} > {file}.new && mv {file}.new {file}\n{look}"
    return _fence(driver) + (look + _SAMPLE if samples_gpus else look)


def stop_script(run: str, driver: int = 1) -> str:
    """Returns the script that asks the workload to end; running it again does nothing."""
    return _fence(driver) + ALIVE + _script(_STOP, run)


def kill_script(run: str, driver: int = 1) -> str:
    """Returns the script that kills the workload with its supervisor."""
    return _fence(driver) + ALIVE + _script(_KILL, run)


def _fence(driver: int) -> str:
    return _FENCE.replace("@FOLDER@", MACHINE_FOLDER).replace("@DRIVER@", str(int(driver)))


def parse_look(output: bytes) -> Look:
    """Reads the output of `look_script`; raises ValueError."""
    # What ends a line for Python, as a carriage return does, may stand in the workload's own words.
    state, *lines = output.decode("utf-8", "replace").split("\n")
    facts: dict[str, str] = {}
    gpus = []
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "gpu":
            gpus.append(value)
        else:
            facts[key] = value
    out, _, err = facts.get("log", "0 0").partition(" ")
    look = Look(
        "running",
        stdout_bytes=_number(out, BYTES_MAX),
        stderr_bytes=_number(err, BYTES_MAX),
        progress=_progress(facts["progress"]) if "progress" in facts else None,
        at=_number(facts.get("at") or "0", BYTES_MAX),
        # The file may be read while it is written: then it is read again.
        money_deadline_seconds=int(held)
        if _HELD.fullmatch(held := facts.get("money", ""))
        else None,
        gpus=tuple(loads for gpu in gpus if (loads := _loads(gpu)) is not None),
    )
    match state.split():
        case ["absent" | "launching" | "replaced" as word]:
            return Look(word)
        case ["running" | "vanished" | "restarted" as word, seconds]:
            return replace(look, state=word, run_seconds=_seconds(seconds))
        case ["exited", code, seconds, *cause]:
            return replace(
                look,
                state="exited",
                run_seconds=_seconds(seconds),
                exit_code=int(code) & 255,
                cause=Cause(cause[0]) if cause else None,
            )
        case _:
            raise ValueError(f"not understood: {output[:80]!r}")


def _progress(line: str) -> Progress | None:
    """Reads the workload's last line; None = it is not complete yet, or wrong."""
    try:
        return Progress.model_validate_json(line)
    except ValidationError:
        return None


def _loads(line: str) -> tuple[int, int] | None:
    """Reads the load of one GPU; None = it reports none, as virtual GPUs do not."""
    busy, _, memory = line.partition(",")
    if not busy.strip().isdecimal() or not memory.strip().isdecimal():
        return None
    return min(int(busy), 100), _number(memory, MEMORY_MIB_MAX)


def _seconds(text: str) -> int | None:
    """Reads how long it ran; None = its start was not recorded, as when the disk is full."""
    # The machine's clock may have been set back meanwhile.
    seconds = max(int(text), 0)
    return seconds if seconds <= SECONDS_MAX else None


def _number(text: str, most: int) -> int:
    number = int(text)
    if number > most:
        raise ValueError(f"not understood: the number {text[:80]}")
    return number


def follow_script(run: str, file: str, offset: int) -> str:
    """Returns the script that prints a stream from an offset on, until the workload's end."""
    assert file in ("stdout", "stderr"), "there are two streams"
    text = _script(_FOLLOW, run).replace("@FILE@", file)
    return ALIVE + text.replace("@OFFSET@", str(int(offset)))


def _script(text: str, run: str) -> str:
    filled = {"@BORN@": _BORN, "@RUN@": run, "@FOLDER@": MACHINE_FOLDER, "@WHOLE@": _WHOLE}
    filled["@PROGRESS@"] = PROGRESS_VARIABLE
    for name, value in filled.items():
        text = text.replace(name, value)
    return text


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise ValueError(f"{uid!r} is not a uid")
    return uid
