"""The scripts that run on the machine: POSIX shell, sent over SSH's input, never on a command line.

`launch` starts the workload at most once: the folder of the attempt is made by an atomic `mkdir`,
and only its maker goes on. If the maker dies before it has started the workload, the folder stays
without a `started` file; whoever comes later sees that after a while and reports it instead of
starting a second one. `follow` prints what a file holds from an offset on, until the workload has
ended and all was printed.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LAUNCH_PATIENCE_SECONDS = 30


_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The workload's own shell reads environment and command from a file that only root can read, and
# removes it: nothing of it is ever an argument of a process.
_LAUNCH = r"""
umask 077
base="$HOME/.gpujob/runs"; mkdir -p "$base"; dir="$base/@RUN@"
if ! mkdir "$dir" 2>/dev/null; then cat >/dev/null; exit 0; fi
cat > "$dir/work"
cat > "$dir/supervise" <<'SUPERVISE'
cd "$1" || exit 1
date +%s > began
: > stdout; : > stderr
echo $$ > started.new && mv started.new started
sh -c '. "$1/work"' workload "$1" > stdout 2> stderr < /dev/null
code=$?
date +%s > ended
echo "$code" > exit.new && mv exit.new exit
SUPERVISE
if command -v setsid >/dev/null; then setsid sh "$dir/supervise" "$dir" </dev/null >/dev/null 2>&1 &
else nohup sh "$dir/supervise" "$dir" </dev/null >/dev/null 2>&1 & fi
exit 0
"""

# A container's first process may never collect its dead: such a one can still be signalled.
_ALIVE = r"""
alive() { kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }
"""

_LOOK = r"""
dir="$HOME/.gpujob/runs/@RUN@"
date +%s > "$HOME/.gpujob/heartbeat.new" && mv "$HOME/.gpujob/heartbeat.new" "$HOME/.gpujob/heartbeat"
now=$(date +%s)
began=$(cat "$dir/began" 2>/dev/null)
if [ -e "$dir/exit" ]; then
  echo "exited $(cat "$dir/exit") $(($(cat "$dir/ended") - began))"
elif [ -e "$dir/started" ]; then
  if alive "$(cat "$dir/started")"; then echo "running $((now - began))"
  elif [ -e "$dir/exit" ]; then echo "exited $(cat "$dir/exit") $(($(cat "$dir/ended") - began))"
  else echo "vanished $((now - began))"; fi
elif [ -d "$dir" ]; then echo launching
else echo absent; fi
"""  # noqa: E501

# `tail -c +N` and `head -c` move any byte; the end is looked at before the size, so that nothing
# written before the end is missed.
_FOLLOW = r"""
cd "$HOME/.gpujob/runs/@RUN@" || exit 1
at=@OFFSET@
while :; do
  ended=0; [ -e exit ] && ended=1
  [ "$ended" = 0 ] && ! alive "$(cat started)" && [ ! -e exit ] && ended=1
  size=$(wc -c < @FILE@)
  if [ "$size" -gt "$at" ]; then tail -c +$((at + 1)) @FILE@ | head -c $((size - at)) || exit 1; at=$((size))
  elif [ "$ended" = 1 ]; then exit 0
  else sleep 0.2 2>/dev/null || sleep 1; fi
done
"""  # noqa: E501


@dataclass(frozen=True)
class Look:
    """What a look at the machine told."""

    state: str
    """absent, launching, running, exited or vanished (its supervisor was killed)."""
    run_seconds: int | None = None
    exit_code: int | None = None


def run_name(uid: str, number: int) -> str:
    """Returns the name of a run's folder: of a node's workload, started for the so-manyth time."""
    return f"{_checked(uid)}-{int(number)}" if number else _checked(uid)


def launch_script(run: str) -> str:
    """Returns the script that starts the workload once; its input is `work_text`."""
    return _LAUNCH.replace("@RUN@", run)


def work_text(
    command: Sequence[str], working_dir: str | None, environment: Mapping[str, str]
) -> bytes:
    """Returns the shell text that becomes the workload.

    It removes itself first, then changes to the folder, sets the environment, and is replaced by
    the command. Any byte but NUL may stand in values.
    """
    lines = ['rm -f "$1/work"']
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can not be the name of a variable")
        lines.append(f"export {name}={shlex.quote(value)}")
    place = shlex.quote(working_dir) if working_dir else '"$HOME"'
    lines.append(f"cd {place} || exit 127")
    lines.append(f"exec {' '.join(shlex.quote(part) for part in command)}")
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"


def look_script(run: str) -> str:
    """Returns the script that gives a heartbeat and prints how the workload stands."""
    return _ALIVE + _LOOK.replace("@RUN@", run)


def parse_look(output: bytes) -> Look:
    """Reads what `look_script` printed; raises ValueError."""
    words = output.decode("ascii", "replace").split()
    match words:
        case ["absent" | "launching" as state]:
            return Look(state)
        case ["running" | "vanished" as state, seconds]:
            return Look(state, run_seconds=max(int(seconds), 0))
        case ["exited", code, seconds]:
            return Look("exited", run_seconds=max(int(seconds), 0), exit_code=int(code) & 255)
        case _:
            raise ValueError(f"not understood: {output[:80]!r}")


def follow_script(run: str, file: str, offset: int) -> str:
    """Returns the script that prints a file from an offset on, until the workload's end."""
    assert file in ("stdout", "stderr"), "there are two streams"
    text = _FOLLOW.replace("@RUN@", run).replace("@FILE@", file)
    return _ALIVE + text.replace("@OFFSET@", str(int(offset)))


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise ValueError(f"{uid!r} is no uid")
    return uid
