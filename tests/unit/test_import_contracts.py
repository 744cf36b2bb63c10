"""The import contracts hold, and each of them breaks on a planted violation."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLANTED = [
    ("Imports point one way", "gpujob/core/money.py", "import gpujob.adapters.clock\n"),
    ("Imports point one way", "gpujob/web/listener.py", "import gpujob.controller.sweep\n"),
    ("Imports point one way", "gpujob/misc.py", '"""A room that nobody planned."""\n'),
    ("Imports point one way", "gpujob/server/main.py", "import gpujob.controller.sweep\n"),
    ("The server asks no provider", "gpujob/server/main.py", "import gpujob.adapters.vast\n"),
    ("The core and the API are pure", "gpujob/core/money.py", "import asyncio\n"),
    ("The core and the API are pure", "gpujob/api/meta.py", "import os\n"),
    ("The driver decides nothing", "gpujob/driver/main.py", "import gpujob.core.money\n"),
    ("FastAPI serves the HTTP API alone", "gpujob/web/listener.py", "import fastapi\n"),
    ("FastAPI serves the HTTP API alone", "gpujob/server/admission.py", "import fastapi\n"),
    ("FastAPI serves the HTTP API alone", "gpujob/controller/probes.py", "import fastapi\n"),
    ("The driver decides nothing", "gpujob/driver/main.py", "import gpujob.adapters.metrics\n"),
    ("The driver decides nothing", "gpujob/adapters/ssh.py", "import gpujob.adapters.vast\n"),
    ("The driver decides nothing", "gpujob/driver/work.py", "import aiohttp\n"),
    ("kopf only watches", "gpujob/controller/reconcile.py", "import kopf\n"),
    ("The operator and the simulator share no code", "vastsim/market.py", "import gpujob\n"),
]


def linted(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the contracts of pyproject.toml over a copy of the packages."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "operator")},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "operator", tmp_path / "operator", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    """Nothing is broken as it stands."""
    done = linted(copy)

    assert done.returncode == 0, done.stdout


def test_the_controller_loads_no_fastapi() -> None:
    """Not even through what all programs begin with; it takes 15 MiB and a third of a second."""
    program = "import sys, gpujob.__main__, gpujob.controller.main; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED)
def test_a_planted_violation_is_found(copy: Path, contract: str, file: str, line: str) -> None:
    """The contract that forbids it says so."""
    path = copy / "operator" / file
    path.write_text((path.read_text() if path.exists() else "") + "\n" + line)
    done = linted(copy)

    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout


def test_kopf_may_be_imported_nowhere_but_in_the_watch(copy: Path) -> None:
    """Planted in every module at once, it is found in each of them."""
    package = copy / "operator/gpujob"
    planted = set()
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(copy / "operator").with_suffix("").parts)
        module = module.removesuffix(".__init__")
        if module != "gpujob.controller.watch":
            path.write_text(path.read_text() + "\nimport kopf\n")
            planted.add(module)
    done = linted(copy)
    found = set(re.findall(r"(gpujob[\w.]*) -> kopf", done.stdout))

    assert len(planted) > 90
    assert planted - found == set()
    assert found == planted
