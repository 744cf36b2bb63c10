"""A browser without a screen, for tests that look at pages. It needs root and mmdebstrap.

It is Debian's, in a file system of its own that is made once and is not installed on this machine.
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from localcluster.binaries import ensure_packages
from localcluster.paths import cache, environment, locked
from localcluster.patience import told
from localcluster.project_images import MERGED, REMOVED, SUITE

PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
PROGRAM = "/usr/lib/chromium/chromium-headless-shell"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
"""It shows pages of this project alone, and is root, for which it has no sandbox."""
PATIENCE_SECONDS = 120
INSIDE = """
mount --make-rprivate /
mount --bind "$2" "$1/tmp"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
root=$1; shift 2
exec chroot "$root" "$@"
"""


def root() -> Path:
    """Returns a folder with the browser's file system, which is made once."""
    made_from = hashlib.sha256("\0".join((SUITE, *PACKAGES, *REMOVED)).encode()).hexdigest()[:16]
    target = cache() / "browser" / made_from
    # Two at once would make it twice.
    with told("preparing a browser"), locked("browser"):
        if target.exists():
            return target
        ensure_packages()
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / "root"
            what = [
                "--variant=extract",
                "--mode=root",
                "--quiet",
                f"--include={','.join(PACKAGES)}",
            ]
            done = subprocess.run(
                ["mmdebstrap", *what, SUITE, str(made)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment(),
            )
            if done.returncode != 0:
                raise SystemExit(f"browser: mmdebstrap failed:\n{done.stderr[-4000:]}")
            for folder in REMOVED:
                shutil.rmtree(made / folder, ignore_errors=True)
            for folder in MERGED:
                if not (made / folder).exists():
                    (made / folder).symlink_to(f"usr/{folder}")
            for folder in ("dev", "proc", "tmp"):
                (made / folder).mkdir(exist_ok=True)
            made.rename(target)
    return target


def browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the browser with more arguments; it sees a folder as its /tmp.

    It shares this machine's network, and ends with this call.
    """
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", INSIDE, "sh"]
    return subprocess.run(
        [*inside, str(root()), str(folder), PROGRAM, *FLAGS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},  # noqa: S108
    )
