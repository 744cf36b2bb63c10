"""The driver's image holds what the driver imports, and nothing of the other programs."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from localcluster.paths import ROOT
from localcluster.project_images import SITE, copied_files

START = """
import json, runpy, sys
absent = set(sys.argv[1:])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"the driver's image has no {name}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv[1:] = ["driver"]
try:
    runpy.run_module("gpujob", run_name="__main__")
except SystemExit as end:
    import gpujob
    print(json.dumps([str(end), gpujob.__file__, sorted(sys.modules)]))
"""
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+).*\n((?:    --hash=.*\n)+)", re.MULTILINE)


def pins(lock: str) -> dict[str, tuple[str, ...]]:
    """Returns version and hashes of each package in a lock."""
    text = (ROOT / "hack/locks" / lock).read_text()
    return {name: (version, *hashes.split()) for name, version, hashes in PIN.findall(text)}


def test_the_driver_starts_with_what_its_image_holds(tmp_path: Path) -> None:
    """It reads its settings, after all imports; and each of its files is imported."""
    places = copied_files("driver")
    for place, path in places.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / place)
    held = set(pins("driver.txt"))
    absent = {
        module
        for module, names in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", name).lower() for name in names} & held
    } - {"gpujob"}
    assert {"aiohttp", "fastapi", "kopf", "kubernetes", "prometheus_client"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", START, *absent],
        env={"PYTHONPATH": str(tmp_path / SITE)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    end, package, imported = json.loads(done.stdout)
    assert end == "gpujob: GPUJOB_TRANSPORT_URL must be set"
    assert Path(package).is_relative_to(tmp_path)
    own = [Path(place).relative_to(SITE).with_suffix("") for place in places]
    modules = {".".join(one.parts).removesuffix(".__init__") for one in own}
    assert {
        name for name in modules if name.startswith(("gpujob.adapters", "gpujob.driver"))
    } <= set(imported)


def test_both_images_take_the_same_packages() -> None:
    """The driver's lock is a part of the operator's: same versions, same hashes."""
    whole, part = pins("runtime.txt"), pins("driver.txt")

    assert {"asyncssh", "cryptography", "pydantic"} <= set(part)
    assert part == {name: whole[name] for name in part}
    assert len(part) < len(whole) / 2


def test_the_distribution_brings_the_operator_alone(tmp_path: Path) -> None:
    """Who installs it does not get the simulator."""
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target=wheel",
        f"--directory={tmp_path}",
    ]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.iterdir()
    shutil.unpack_archive(wheel, tmp_path / "all", "zip")
    found = {path.name for path in (tmp_path / "all").iterdir()}
    (scripts,) = (tmp_path / "all").glob("*.dist-info/entry_points.txt")

    assert {name for name in found if not name.endswith(".dist-info")} == {"gpujob"}
    assert "vastsim" not in scripts.read_text()
