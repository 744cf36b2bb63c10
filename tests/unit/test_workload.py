"""What a workload finds when it starts, whatever shell the image's `sh` is."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.here import here

from gpujob.driver.supervisor import PROGRESS_VARIABLE, launch_script, work_text
from localcluster.project_images import shells

SHELLS = shells()

SHELLS_OWN = (
    *("UID", "EUID", "PPID", "PWD", "OLDPWD", "SHLVL", "IFS", "LINENO", "RANDOM", "SECONDS"),
    *("OPTIND", "HISTCMD", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO", "BASHPID", "BASH_COMMAND"),
    *("EPOCHSECONDS", "GROUPS", "DIRSTACK", "FUNCNAME", "PS4", "ENV", "BASH_ENV", "HOSTNAME"),
    *("COMP_WORDBREAKS", "SRANDOM", "BASH_ARGV0", "PIPESTATUS", "MAPFILE", "POSIXLY_CORRECT", "_"),
)
OURS = ("dir", "home", "env", "path", "line", "mark", "byte", "one", "name")
NO_SHELLS = ("my.var", "1ST", "a-b", "BASH_FUNC_f%%", "über")
"""Names that no shell can assign to; a container's environment may have them."""

RUN = "0000"


def run(
    shell: str,
    folder: Path,
    image: Mapping[str, str],
    job: Mapping[str, str],
    *command: str,
    working_dir: str | None = None,
) -> bytes:
    """Starts a workload by a shell under the name of `sh`; returns what it prints."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    entries = (f"{name}={value}\0" for name, value in image.items())
    (state / "environ").write_bytes("".join(entries).encode("utf-8", "surrogateescape"))
    (state / "cwd").write_text(f"{folder}\n")
    (folder / "sh").unlink(missing_ok=True)
    (folder / "sh").symlink_to(shell)
    script = here(launch_script(RUN), folder).replace("env -i sh", f"env -i {folder}/sh")
    text = work_text(command, working_dir, job).decode("utf-8", "surrogateescape")
    subprocess.run(
        [str(folder / "sh"), "-c", script],
        input=here(text, folder).encode("utf-8", "surrogateescape"),
        env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": "/home/of-root", "SESSION": "sshd's own"},
        check=True,
    )
    of_run = state / "runs" / RUN
    deadline = time.monotonic() + 240
    while not (of_run / "exit").exists():
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.002)
    assert ((of_run / "exit").read_text(), (of_run / "stderr").read_bytes()) == ("0\n", b"")
    return (of_run / "stdout").read_bytes()


def found(
    shell: str, folder: Path, image: Mapping[str, str], job: Mapping[str, str]
) -> dict[str, str]:
    """Returns the environment that a workload finds, but for the file for its progress."""
    said = run(shell, folder, image, job, "cat", "/proc/self/environ")
    entries = said.decode("utf-8", "surrogateescape").split("\0")
    seen = dict(entry.split("=", 1) for entry in entries if entry)
    assert seen.pop(PROGRESS_VARIABLE).startswith(str(folder))
    return seen


@pytest.mark.parametrize("name", [*SHELLS_OWN, *OURS])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_that_shells_use_is_a_variable_like_any_other(
    shell: str, name: str, tmp_path: Path
) -> None:
    """`env: UID=1000` is what many images are run with, and bash lets nobody set it."""
    job = {"A": "1", name: "it's 1000"}
    assert found(shell, tmp_path, {"HOME": "/x", "PATH": "/usr/bin"}, job) == {
        "HOME": "/x",
        "PATH": "/usr/bin",
        **job,
    }


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.startswith(("LC_", "LANG", "LD_", "GPUJOB_"))
)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
RAW = st.binary(max_size=30).map(
    lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
"""A container's environment is bytes, in no encoding."""


def variables(names: Sequence[str]) -> st.SearchStrategy[dict[str, str]]:
    """Variables with names of any kind."""
    return st.dictionaries(NAMES | st.sampled_from(names), VALUES | RAW, max_size=8)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, deadline=None)
@given(
    image=variables([*SHELLS_OWN, *OURS, *NO_SHELLS, "HOME"]),
    job=variables([*SHELLS_OWN, *OURS, "HOME"]),
)
def test_a_workload_finds_what_its_image_and_its_job_say(
    shell: str,
    image: dict[str, str],
    job: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The image's variables, then the job's, byte for byte, and no other, as by `docker run`.

    Two are given to those that have them not: HOME is root's, and PATH leads to the usual tools.
    """
    image.pop("PATH", None)
    job.pop("PATH", None)
    folder = tmp_path_factory.mktemp("work")
    wanted = {"HOME": "/home/of-root", "PATH": f"{folder}:/usr/bin:/bin", **image, **job}

    assert found(shell, folder, image, job) == wanted


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_is_found_by_the_images_path_or_the_jobs(shell: str, tmp_path: Path) -> None:
    """As with an image whose Python lies in a folder of its own, and only there."""
    for name in ("images", "jobs"):
        program = tmp_path / name / "python3"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho the {name}\n")
        program.chmod(0o755)
    image = {"PATH": f"{tmp_path}/images"}

    assert run(shell, tmp_path, image, {}, "python3") == b"the images\n"
    (tmp_path / "state/runs" / RUN).rename(tmp_path / "over")
    job = {"PATH": f"{tmp_path}/jobs"}
    assert run(shell, tmp_path, image, job, "python3") == b"the jobs\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_providers_keys_are_not_the_workloads(shell: str, tmp_path: Path) -> None:
    """With the container's own key it could destroy its machine, or rent time for it."""
    image = {
        "CONTAINER_API_KEY": "secret",
        "JUPYTER_TOKEN": "s\necret",
        "GPUJOB_X": "x",
        "A": "1",
    }

    assert set(found(shell, tmp_path, image, {})) == {"A", "HOME", "PATH"}


@pytest.mark.parametrize("shell", SHELLS)
def test_it_starts_in_the_images_folder_or_the_jobs(shell: str, tmp_path: Path) -> None:
    """One that the job names is made if it is not there, as an engine does."""
    assert run(shell, tmp_path, {}, {}, "pwd") == f"{tmp_path}\n".encode()
    (tmp_path / "state/runs" / RUN).rename(tmp_path / "over")
    place = str(tmp_path / "to be/made")
    assert run(shell, tmp_path, {}, {}, "pwd", working_dir=place) == f"{place}\n".encode()


@pytest.mark.parametrize("shell", SHELLS)
def test_its_files_can_be_read_by_whoever_runs_next(shell: str, tmp_path: Path) -> None:
    """As with `docker run`: the driver's own files are for root alone, the workload's are not."""
    run(shell, tmp_path, {}, {}, "touch", "made")

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("shell", SHELLS)
def test_as_many_files_may_be_open_as_the_container_allows(shell: str, tmp_path: Path) -> None:
    """A session's own limit, often 1,024, is too low for loaders of data."""
    assert (
        run(shell, tmp_path, {}, {}, "sh", "-c", "[ $(ulimit -n) = $(ulimit -H -n) ] && echo")
        == b"\n"
    )
