"""What a workload finds when it starts, whatever shell the image's `sh` is."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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
    *("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "EXECIGNORE", "FUNCNEST"),
)
OURS = ("dir", "home", "env", "path", "mark", "byte", "one", "name")
NO_SHELLS = ("my.var", "1ST", "a-b", "BASH_FUNC_f%%", "über")
"""Names that no shell can assign to; a container's environment may have them."""

RUN = "0000"


def launch(
    shell: str,
    folder: Path,
    image: Mapping[str, str],
    job: Mapping[str, str],
    *command: str,
    working_dir: str | None = None,
    received: slice = slice(None),
) -> int:
    """Starts a workload by a shell under the name of `sh`, of whose text so much is received.

    Returns the status of the script that starts it.
    """
    state = folder / "state"
    state.mkdir(exist_ok=True)
    entries = (f"{name}={value}\0" for name, value in image.items())
    (state / "environ").write_bytes("".join(entries).encode("utf-8", "surrogateescape"))
    (state / "cwd").write_text(f"{folder}\n")
    (folder / "sh").unlink(missing_ok=True)
    (folder / "sh").symlink_to(shell)
    script = here(launch_script(RUN), folder).replace("env -i sh", f"env -i {folder}/sh")
    text = work_text(command, working_dir, job).decode("utf-8", "surrogateescape")
    return subprocess.run(
        # As `adapters/ssh.py` frames it.
        [str(folder / "sh"), "-c", f"({script})\nexit $?"],
        input=here(text, folder).encode("utf-8", "surrogateescape")[received],
        env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": "/home/of-root", "SESSION": "sshd's own"},
        check=False,
    ).returncode


def printed(folder: Path) -> tuple[bytes, bytes]:
    """Returns what a workload has printed once it has ended well."""
    of_run = folder / "state/runs" / RUN
    deadline = time.monotonic() + 240
    while not (of_run / "exit").exists():
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.002)
    assert (of_run / "exit").read_text() == "0\n"
    return (of_run / "stdout").read_bytes(), (of_run / "stderr").read_bytes()


def run(
    shell: str,
    folder: Path,
    image: Mapping[str, str],
    job: Mapping[str, str],
    *command: str,
    working_dir: str | None = None,
) -> bytes:
    """Runs a workload; returns what it prints."""
    assert launch(shell, folder, image, job, *command, working_dir=working_dir) == 0
    out, err = printed(folder)
    assert err == b""
    return out


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
    lambda name: not name.startswith(("LD_", "GPUJOB_"))
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


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_may_have_an_equals_sign_in_its_path(shell: str, tmp_path: Path) -> None:
    """As below folders that are named by parameters. To `env` it looks like a variable."""
    program = tmp_path / "lr=0.1/train"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintenv A PWD SHLVL _; echo trained with $*\n")
    program.chmod(0o755)

    said = run(shell, tmp_path, {}, {"A": "1", "PWD": "/x"}, str(program), "a=b")
    assert said.startswith(b"1\n")
    assert said.endswith(b"trained with a=b\n")


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Heeds the signals that whoever started the tests may have ignored, as `nohup` does."""
    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    ignored = [one for one in signals if signal.getsignal(one) is signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize("shell", SHELLS)
def test_no_signal_is_ignored(shell: str, tmp_path: Path) -> None:
    """A program that is told to end by SIGINT, as by its parent, ends."""
    said = run(shell, tmp_path, {}, {}, "grep", "SigIgn", "/proc/self/status")
    assert int(said.split()[1], 16) == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_its_output_can_be_opened_by_name(shell: str, tmp_path: Path) -> None:
    """Nothing that was printed before is lost: scripts print to /dev/stderr so."""
    lines = "echo 1; echo 2 > /dev/stdout; echo 3; echo 4 >&2; echo 5 > /dev/stderr; echo 6 >&2"
    assert launch(shell, tmp_path, {}, {}, "sh", "-c", lines) == 0

    assert printed(tmp_path) == (b"1\n2\n3\n", b"4\n5\n6\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_it_leaves_running_ends_with_it(shell: str, tmp_path: Path) -> None:
    """As with a container: it might go on to write to the files that are copied."""
    leave = "sleep 300 & echo $!; setsid sh -c 'echo $$; exec sleep 300' & sleep 0.2"
    for pid in run(shell, tmp_path, {}, {}, "sh", "-c", leave).split():
        state = Path(f"/proc/{int(pid)}/stat")
        deadline = time.monotonic() + 60
        with suppress(FileNotFoundError):
            while state.read_text().rpartition(")")[2].split()[0] not in "ZX":
                assert time.monotonic() < deadline, "it still runs"


@pytest.mark.parametrize("shell", SHELLS)
def test_what_hides_from_its_end_does_not_hold_it_up(shell: str, tmp_path: Path) -> None:
    """Whoever has its output open may print for ever."""
    said = run(shell, tmp_path, {}, {}, "sh", "-c", "env -i sleep 300 & echo $!; sleep 0.2")
    os.kill(int(said), signal.SIGKILL)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_text_that_was_cut_off_starts_nothing(shell: str, tmp_path: Path) -> None:
    """A line that breaks looks like the text's end; the next one starts the workload."""
    for cut in (-2, -len("\n# the whole\n"), -len("exec env echo 1\n# the whole\n"), 10, 0):
        received = slice(0, cut)
        assert launch(shell, tmp_path, {}, {"A": "1\n2"}, "echo", "1", received=received) != 0
        assert not (tmp_path / "state/runs" / RUN).exists()

    assert run(shell, tmp_path, {}, {}, "echo", "1") == b"1\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_value_of_the_image_may_have_many_lines(shell: str, tmp_path: Path) -> None:
    """A list of hosts or a certificate bundle: its time grows with its length only."""
    value = "1234\n" * 25_000 + "\n"
    assert run(shell, tmp_path, {"A": value}, {}, "printenv", "A") == f"{value}\n".encode()
