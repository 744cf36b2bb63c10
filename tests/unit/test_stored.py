"""Objects as the API server once stored them stay readable, and lose nothing by it.

They are never made anew: a version of the kinds has its own folder, and what is in it stays.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpujob.api.gpujob import GpuJob
from gpujob.api.gpunode import GpuNode

STORED = Path(__file__).parent / "stored"
FILES = sorted(STORED.glob("*/*.yaml"))


def missing(before: Any, after: Any, where: str = "") -> list[str]:
    """Returns what stood there and does not any more; defaults of newer fields may have come."""
    if isinstance(before, dict) and isinstance(after, dict):
        lost = [f"{where}.{key}" for key in before if key not in after]
        return lost + [
            path
            for key in before.keys() & after.keys()
            for path in missing(before[key], after[key], f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [path for at, (old, new) in pairs for path in missing(old, new, f"{where}[{at}]")]
    return [] if before == after else [where]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_was_stored_is_read_whole(path: Path) -> None:
    """Spec and status, written back, still hold all that they did."""
    stored = yaml.safe_load(path.read_text())
    is_job = stored["kind"] == "GpuJob"
    read = GpuJob.model_validate(stored) if is_job else GpuNode.model_validate(stored)

    assert missing(stored["spec"], read.spec.wire()) == []
    assert missing(stored["status"], read.status.wire()) == []


def test_every_state_is_among_them() -> None:
    """Before the first visit, waiting, running, and both ends."""
    names = {path.stem for path in FILES}

    assert names >= {
        *("gpujob-unvisited", "gpujob-ceilingexceeded", "gpujob-running", "gpujob-suspended"),
        *("gpujob-complete", "gpujob-backofflimitexceeded", "gpunode-running", "gpunode-complete"),
    }
