"""How the machine's watchdog counts bytes, in whatever shell the image's `sh` is."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpujob.api.transport import MACHINE_FOLDER
from gpujob.core.machine.start_script import start_script
from localcluster.project_images import shells

Reading = tuple[int, int]
"""Bytes that an interface has received and sent."""

SLEEP = """#!/bin/sh
[ "$1" = 5 ] || kill $PPID
n=$(($(cat step) + 1)); [ -e "steps/$n" ] || kill $PPID
echo $n > step; rm -rf net; cp -r steps/$n net
"""
"""Stands for the time that passes: it shows the next reading, and ends the watchdog after all."""
CURL = """#!/bin/sh
cat > /dev/null
env | grep -i "^[a-z]*_proxy=" >> proxies
while [ "$1" != -X ]; do shift; done
echo "$2" >> requests
[ "$2" = GET ] && cat row
echo 200
"""


SECOND = "eth[0]"
"""Of another interface; to a shell, it is a pattern of the first one's."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def watch(
    shell: str,
    folder: Path,
    readings: list[Reading],
    *,
    billed_kilobytes: float | None = 0.0,
    caps_gb: Reading = (20, 2),
    second: list[Reading | None] | None = None,
) -> str:
    """Lets the watchdog see these readings, one after another; returns what it asks for last."""
    text = start_script(
        ssh_public_key="ssh-ed25519 " + "A" * 68,
        nonce="ab" * 16,
        provider_url="https://provider.example",
        born_before=datetime.now(UTC) + timedelta(hours=1),
        money_deadline_seconds=10**9,
        heartbeat_stale_seconds=10**9,
        max_download_gb=caps_gb[0],
        max_upload_gb=caps_gb[1],
    ).script
    watchdog = text.split("<<'WATCHDOG'\n")[1].split("\nWATCHDOG\n")[0]
    here = watchdog.replace(MACHINE_FOLDER, str(folder / "state")).replace(
        "/sys/class/net", str(folder / "net")
    )
    (folder / "state").mkdir(exist_ok=True)
    (folder / "step").write_text("0")
    (folder / "requests").write_text("")
    (folder / "proxies").write_text("")
    row = {"id": 7, "inet_down_billed": billed_kilobytes, "start_date": 1_767_225_600.5}
    (folder / "row").write_text(json.dumps({"instances": row}))
    for place, (received, sent) in [(folder / "net", readings[0])] + [
        (folder / "steps" / str(number), reading) for number, reading in enumerate(readings)
    ]:
        # What stays within is far beyond all caps.
        number = int(place.name) if place.name != "net" else 0
        shown = {"eth0": (received, sent), "lo": (received * 99, sent * 99)}
        if second and (pair := second[number]) is not None:
            shown[SECOND] = pair
        for name, pair in shown.items():
            counters = place / name / "statistics"
            counters.mkdir(parents=True, exist_ok=True)
            (counters / "rx_bytes").write_text(f"{pair[0]}\n")
            (counters / "tx_bytes").write_text(f"{pair[1]}\n")
    for name, program in (("sleep", SLEEP), ("curl", CURL)):
        (folder / name).write_text(program)
        (folder / name).chmod(0o755)
    (folder / "sh").unlink(missing_ok=True)
    (folder / "sh").symlink_to(shell)
    subprocess.run(
        # busybox has programs of its own before those on the path, but after functions.
        [str(folder / "sh"), "-c", f'sleep() {{ {folder}/sleep "$@"; }}\n{here}'],
        cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin", "CONTAINER_ID": "7", "CONTAINER_API_KEY": "k"}
        | dict.fromkeys(PROXIES, "http://proxy.example:3128"),
        check=False,
        capture_output=True,
        timeout=60,
    )
    return ((folder / "requests").read_text().splitlines() or [""])[-1]


def counted(folder: Path) -> Reading:
    """Returns what it has stored: megabytes of both directions."""
    stored = folder / "state/traffic"
    if not stored.exists():
        return 0, 0
    down, up = stored.read_text().split()
    return int(down), int(up)


GB = 10**9


@pytest.mark.parametrize("shell", shells())
def test_an_interface_that_comes_or_goes_is_no_traffic_of_another_one(
    shell: str, tmp_path: Path
) -> None:
    """What the other one had counted before would be counted once more, and end the machine."""
    eth = [(15 * GB, GB)] * 3 + [(16 * GB, GB)]
    asked = watch(shell, tmp_path, eth, second=[(0, 0), (GB, 0), None, None])

    assert (asked, counted(tmp_path)) == ("GET", (2000, 0))


@pytest.mark.parametrize("shell", shells())
def test_an_image_s_proxy_is_not_asked(shell: str, tmp_path: Path) -> None:
    """The machine does not reach it, and it is not to see the machine's key."""
    assert watch(shell, tmp_path, [(0, 0), (21 * GB, 0)]) == "DELETE"
    assert (tmp_path / "proxies").read_text() == ""


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize(
    ("readings", "billed", "asked"),
    [
        pytest.param([(0, 0), (20 * GB, 2 * GB)], 0.0, "GET", id="the caps themselves"),
        pytest.param([(0, 0), (20 * GB + 10**6, 0)], 0.0, "DELETE", id="one megabyte more"),
        pytest.param([(0, 0), (0, 2 * GB + 10**6)], 0.0, "DELETE", id="the other direction"),
        pytest.param([(2**40, 2**40)] * 3, 0.0, "GET", id="only what it sees come"),
        pytest.param([(0, 0), (15 * GB, 0), (0, 0), (6 * GB, 0)], 0.0, "DELETE", id="begun anew"),
        pytest.param([(0, 0), (15 * GB, 0), (6 * GB, 0)], 0.0, "DELETE", id="anew between looks"),
        pytest.param([(0, 0), (15 * GB, 0)], 5.1e6, "DELETE", id="the provider had counted some"),
        pytest.param([(0, 0), (15 * GB, 0)], None, "GET", id="the provider does not say"),
        pytest.param([(0, 0), (2**50, 0)], 0.0, "DELETE", id="a petabyte at once"),
    ],
)
def test_past_a_cap_it_destroys_its_machine(
    shell: str, readings: list[Reading], billed: float | None, asked: str, tmp_path: Path
) -> None:
    """Downloads and uploads apart; what stays within the container does not count."""
    assert watch(shell, tmp_path, readings, billed_kilobytes=billed) == asked


@pytest.mark.parametrize("shell", shells())
def test_what_was_counted_stays_counted(shell: str, tmp_path: Path) -> None:
    """The container is started again: counters and shell begin anew, the sum does not."""
    first = watch(shell, tmp_path, [(0, 0), (15 * GB, GB)], billed_kilobytes=3e6)
    between = counted(tmp_path)
    again = watch(shell, tmp_path, [(0, 0), (GB, GB)], billed_kilobytes=19e6)
    after = counted(tmp_path)
    (tmp_path / "state/traffic").write_text("garbage")
    unread = watch(shell, tmp_path, [(0, 0), (GB, GB)])

    assert (first, between) == ("GET", (18_000, 1000))
    assert (again, after) == ("", (19_000, 2000)), "the provider is asked for it only once"
    assert (unread, counted(tmp_path)) == ("", (1000, 1000))


@pytest.mark.parametrize("shell", shells())
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_sum_is_that_of_all_growth(
    shell: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To the megabyte, whatever the counters show, in a shell of 32 bits as in one of 64."""
    one = st.integers(0, 2**49) | st.integers(0, 10**7)
    readings = data.draw(st.lists(st.tuples(one, one), min_size=2, max_size=4))
    folder = tmp_path_factory.mktemp("watchdog")
    watch(shell, folder, readings, caps_gb=(2_100_000, 2_100_000))
    sums = []
    for column in zip(*readings, strict=True):
        shown = [value // 10**6 for value in column]
        pairs = pairwise(shown)
        sums.append(sum(now - old if now >= old else now for old, now in pairs))

    assert counted(folder) == tuple(sums)


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize(
    ("told", "held", "asks"),
    [
        ("5", "5", "DELETE"),
        ("6", "6", ""),
        ("2000000000", "2000000000", ""),
        ("", None, ""),
        ("soon", None, ""),
        ("5 x", None, ""),
        ("-5", None, ""),
        (str(10**9), None, ""),
    ],
)
def test_it_holds_to_another_money_deadline_that_it_is_told(
    shell: str, told: str, held: str | None, asks: str, tmp_path: Path
) -> None:
    """It says so, and one that it cannot read changes nothing. It has looked once, at 5 s."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/money").write_text(f"{told}\n")
    last = watch(shell, tmp_path, [(0, 0), (0, 0)])

    answer = tmp_path / "state/money.held"
    assert (answer.read_text().strip() if answer.exists() else None) == held
    assert (last == "DELETE") == (asks == "DELETE")


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize(("told", "asks"), [("900", "DELETE"), ("1100", "")])
def test_a_machine_that_comes_back_counts_its_pause_and_holds_to_what_it_was_told(
    shell: str, told: str, asks: str, tmp_path: Path
) -> None:
    """It was first started 1000 s ago: its first look decides, before a driver can tell it more."""
    (tmp_path / "state").mkdir()
    began = datetime.now(UTC) - timedelta(seconds=1000)
    (tmp_path / "state/began").write_text(f"{int(began.timestamp())}\n")
    (tmp_path / "state/money").write_text(f"{told}\n")

    assert watch(shell, tmp_path, [(0, 0), (0, 0)]) == asks
    assert (tmp_path / "state/money.held").read_text().strip() == told
