"""Whatever the start-up files of root's shell do, a script runs whole, or is said not to run."""

import asyncio
import shlex
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.contract.shells import ShellMachine

from gpujob.adapters.errors import SessionBroken

SCRIPT = r"""
read -r one two
printf '%s|%s|' "$one" "$two"; cat; echo "to nobody" >&2
(exit 3) || echo " $?"
for part in a b; do printf %s $part; done
echo
"""
TEXT = b"first second third\nand\0more"
WHOLE = b"first|second third|and\0more 3\nab\n"

ALIASES = "alias sh='echo no' echo=false"
"""Those of `exec` itself are another matter: no word in quotes is `exec` to tcsh."""
EXPANDED = "shopt -s expand_aliases nullglob failglob 2>/dev/null"
POSIX = "export LC_ALL=tr_TR.UTF-8 LANG=C POSIXLY_CORRECT=1"
HARMLESS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60).map(
        lambda text: f"printf %s {shlex.quote(text)}"
    ),
    st.integers(0, 255).map(lambda status: f"(exit {status})"),
    st.sampled_from(
        [
            "head -c 3000 /dev/urandom",
            "head -c 3000 /dev/urandom >&2",
            "set -u",
            "set -f",
            "set -o noclobber",
            "set -o pipefail",
            "set -x",
            "set -v",
            "IFS=e",
            "trap 'echo ended' EXIT",
            "trap '' TERM HUP",
            "trap 'echo error' ERR",
            ALIASES,
            EXPANDED,
            "printf() { echo mine; }; echo() { :; }; read() { false; }",
            "cd /",
            "umask 777",
            POSIX,
            "export ENV=/dev/null BASH_ENV=/dev/null PS4='$(echo trace)'",
            "readonly one two part",
            "sleep 0.01 & disown",
            "(while kill -0 $$; do sleep 0.02; done 2> /dev/null; echo late; echo late >&2) &",
            "exec 3</dev/null 9>&1",
            "exec 2>&1",
            "return 0",
        ]
    ),
)
"""What people have in these files, and what is odder."""
ENDING = st.one_of(
    st.integers(0, 255).map(lambda status: f"exit {status}"),
    st.sampled_from(["KILL", "TERM"]).map(lambda name: f"kill -{name} $$"),
    st.sampled_from(
        [
            "exec false",
            "exec true",
            "exec /nonexistent",
            "export PATH=/nonexistent",
            "set -e; false",
            "shopt -s expand_aliases; alias exec=false",
        ]
    ),
)
"""Does not come to the script. What hangs is another matter: it takes its time."""

LIKE = {
    "like fish": r"command=${command//'\\'/'\'}",
    "like tcsh": r"[[ $command != *$'\n'* ]] || exit 1",
}

NUMBERS = count()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples."""
    return tmp_path_factory.mktemp("machines")


async def run_with(lines: list[str], scratch: Path) -> bytes:
    """Runs the script on a machine whose shell first does this."""
    folder = scratch / str(next(NUMBERS))
    rc = scratch / "rc"
    rc.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")
    shell = scratch / "bash"
    # As bash does for a command of an SSH server: the file and the command in one shell.
    shell.write_text(f'#!/bin/bash\n. {rc}\neval "$2"\n')
    shell.chmod(0o755)
    async with ShellMachine(folder, shell=(str(shell),)).connected() as connection:
        return await connection.run(SCRIPT, TEXT)


@settings(max_examples=60, deadline=None, derandomize=True)
@example(lines=[EXPANDED, ALIASES])
@example(lines=[ALIASES, POSIX])
@given(lines=st.lists(HARMLESS, max_size=5))
def test_a_script_runs_whole(scratch: Path, lines: list[str]) -> None:
    """Its output is its own, and so is its input."""
    assert asyncio.run(run_with(lines, scratch)) == WHOLE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(before=st.lists(HARMLESS, max_size=3), end=ENDING)
def test_a_session_that_ends_is_said_to(scratch: Path, before: list[str], end: str) -> None:
    """It is never taken for a script that ran, or that failed."""
    said = b""
    with suppress(SessionBroken):
        said = asyncio.run(run_with([*before, end], scratch))

    # What comes before may keep the end from happening.
    assert said in (b"", WHOLE)
    assert not said or before


@pytest.mark.parametrize("shell", ["like fish", "like tcsh", "fish", "tcsh", "zsh"])
async def test_root_s_shell_may_be_none_of_posix(shell: str, tmp_path: Path) -> None:
    """Where the shells are not installed, their reading of quotes is imitated."""
    program = Path(f"/bin/{shell}")
    if shell in LIKE:
        program = tmp_path / "shell"
        program.write_text(f'#!/bin/bash\ncommand=$2\n{LIKE[shell]}\neval "$command"\n')
        program.chmod(0o755)
    elif not program.exists():
        pytest.skip(f"{shell} is not installed")
    script = "printf '%s|' '\\\\' \"it's\" \"\\$HOME `echo !` %s\" 'é'; printf \"\\\\101\"; cat"
    async with ShellMachine(tmp_path / "machine", shell=(str(program),)).connected() as connection:
        said = await connection.run(script, TEXT)

    assert said == "\\\\|it's|$HOME ! %s|é|A".encode() + TEXT
