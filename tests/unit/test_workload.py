"""What a workload finds when it starts, whatever shell the image's `sh` is."""

import subprocess
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpujob.driver.supervisor import work_text

SHELLS = tuple(path for name in ("dash", "bash", "busybox", "mksh") if (path := which(name)))
"""Images have one of these as `sh`."""

SHELLS_OWN = (
    *("UID", "EUID", "PPID", "PWD", "OLDPWD", "SHLVL", "IFS", "LINENO", "RANDOM", "SECONDS"),
    *("OPTIND", "HISTCMD", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO", "BASHPID", "BASH_COMMAND"),
    *("EPOCHSECONDS", "GROUPS", "DIRSTACK", "FUNCNAME", "PS4", "ENV", "BASH_ENV", "HOSTNAME"),
    *("COMP_WORDBREAKS", "SRANDOM", "BASH_ARGV0", "PIPESTATUS", "MAPFILE", "POSIXLY_CORRECT"),
)


def found(
    shell: str, folder: Path, given: dict[str, str], *, working_dir: str = "/"
) -> dict[str, str]:
    """Starts a workload by a shell under the name of `sh`; returns the environment it finds."""
    (folder / "sh").unlink(missing_ok=True)
    (folder / "sh").symlink_to(shell)
    (folder / "work").write_bytes(work_text(["cat", "/proc/self/environ"], working_dir, given))
    done = subprocess.run(
        [str(folder / "sh"), "-c", '. "$1/work"', "workload", str(folder)],
        env={"PATH": "/usr/bin:/bin", "HOME": "/root"},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    entries = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


@pytest.mark.parametrize("name", SHELLS_OWN)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_that_shells_use_is_a_variable_like_any_other(
    shell: str, name: str, tmp_path: Path
) -> None:
    """`env: UID=1000` is what many images are run with, and bash lets nobody set it."""
    assert found(shell, tmp_path, {"A": "1", name: "it's 1000"})[name] == "it's 1000"


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.startswith(("LC_", "LANG", "LD_", "GPUJOB_", "PATH", "HOME"))
)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, deadline=None)
@given(variables=st.dictionaries(NAMES | st.sampled_from(SHELLS_OWN), VALUES, max_size=8))
def test_a_workload_finds_the_very_bytes(
    shell: str, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Quotes, newlines, backslashes and all."""
    seen = found(shell, tmp_path_factory.mktemp("work"), variables)

    assert {name: seen.get(name) for name in variables} == variables


@pytest.mark.parametrize("shell", SHELLS)
def test_its_files_can_be_read_by_whoever_runs_next(shell: str, tmp_path: Path) -> None:
    """As with `docker run`: the driver's own files are for root alone, the workload's are not."""
    (tmp_path / "sh").symlink_to(shell)
    (tmp_path / "work").write_bytes(work_text(["touch", "made"], str(tmp_path), {}))
    start = f"umask 077; exec {tmp_path}/sh -c '. \"$1/work\"' workload {tmp_path}"
    subprocess.run(["/bin/sh", "-c", start], check=True)

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644
