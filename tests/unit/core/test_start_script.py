"""What a machine is started with, and which host key its log may tell."""

import subprocess
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.here import here

from gpujob.core.machine.start_script import host_key_in_log, start_script

KEY, OTHER_KEY = "ssh-ed25519 " + "A" * 68, "ssh-ed25519 " + "B" * 68
NONCE, OTHER_NONCE = "0123456789abcdef" * 2, "fedcba9876543210" * 2


def told(key: str = KEY, nonce: str = NONCE) -> str:
    """The line that the start script prints."""
    return f"gpujob-host-key {nonce} {key} {nonce}\n"


@pytest.mark.parametrize(
    ("log", "key"),
    [
        pytest.param("", None, id="nothing yet"),
        pytest.param(f"noise\n{told()}more noise\n", KEY, id="between its nonces"),
        pytest.param(told() + told(), KEY, id="twice the same: a restarted container"),
        pytest.param(told(nonce=OTHER_NONCE), None, id="another attempt's"),
        pytest.param(told(OTHER_KEY, OTHER_NONCE) + told(), KEY, id="its own among others"),
        pytest.param(f"gpujob-host-key {NONCE} {KEY}\n", None, id="cut off"),
        pytest.param(f"echo {told()}", None, id="not at the start of a line"),
        pytest.param(
            f"gpujob-host-key {NONCE} ssh-rsa {'A' * 68} {NONCE}", None, id="another kind"
        ),
    ],
)
def test_only_a_key_between_its_own_nonces_counts(log: str, key: str | None) -> None:
    """The log holds what the workload prints too."""
    assert host_key_in_log(log, NONCE) == key


def test_two_keys_are_none() -> None:
    """One of them may be a workload's."""
    with pytest.raises(ValueError, match="2 different host keys"):
        host_key_in_log(told() + told(OTHER_KEY), NONCE)


@pytest.mark.parametrize("end", ["", "\n", "\nsshd:x:1:1::/:/bin/false\n"])
def test_root_s_home_is_found_and_a_folder_kept(tmp_path: Path, end: str) -> None:
    """Though no line ends the password file, and the first process can be looked at by nobody."""
    began = start_script(
        ssh_public_key=KEY,
        nonce=NONCE,
        provider_url="https://provider.example",
        born_before=datetime(2026, 1, 1, tzinfo=UTC),
        money_deadline_seconds=3600,
        heartbeat_stale_seconds=600,
        max_download_gb=20,
        max_upload_gb=2,
    )
    # What follows is for a container only.
    text = b64decode(began.setup).decode().partition("touch ")[0]
    (tmp_path / "state").mkdir()
    passwd = tmp_path / "passwd"
    passwd.write_text(f"ann:x:10:0::/ann:/bin/sh\nroot:x:0:0:root:{tmp_path}/of-root:/bin/sh{end}")
    text = here(text, tmp_path).replace("/etc/passwd", str(passwd)).replace("/proc/1/", "/none/")
    # Only root may give a folder to root.
    text = text.replace("chown 0:0", ":")
    environment = {"HOME": str(tmp_path / "workspace"), "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-c", text], cwd=tmp_path, env=environment, check=True)

    keys = (tmp_path / "of-root/.ssh/authorized_keys").read_text()
    assert keys.split("\n") == ["", KEY, ""]
    assert (tmp_path / "state/cwd").read_text() == f"{tmp_path}\n"
    assert b"HOME=" in (tmp_path / "state/environ").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"ssh_public_key": f"{KEY}'; reboot; '"},
        {"nonce": "$(reboot)"},
        {"provider_url": "https://provider.example/$(reboot)"},
    ],
)
def test_nothing_slips_into_the_shell(changes: dict[str, Any]) -> None:
    """What is no key, nonce or address is refused."""
    given: dict[str, Any] = {
        "ssh_public_key": KEY,
        "nonce": NONCE,
        "provider_url": "https://provider.example",
        "born_before": datetime(2026, 1, 1, tzinfo=UTC),
        "money_deadline_seconds": 100,
        "heartbeat_stale_seconds": 900,
        "max_download_gb": 20,
        "max_upload_gb": 2,
    }
    assert KEY in b64decode(start_script(**given).setup).decode()
    with pytest.raises(ValueError, match="is not safe inside a start script"):
        start_script(**given | changes)
