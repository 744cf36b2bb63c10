"""Measures how late machines are destroyed while very much else waits, and for how long the
controller's event loop stands still.

Machines that never boot are due when the boot cap has passed. Meanwhile jobs wait that will never
be rented, each with needs of its own, searches and the API server are slow, and finished jobs are
stored. The controller is a process, before a real API server and the simulator.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.client import Client, path_of
from tests.integration.conftest import World, control_plane, fresh_namespace, staged
from tests.integration.parts import Simulator, eventually, operators_config
from tests.integration.proxy import Seen, proxy

BOOT_CAP_SECONDS = 45
WRITERS = 4
PATIENCE_SECONDS = 900.0
LOOK_SECONDS = 5.0
STALL_GOAL_MS = 50
START_SECONDS = 90.0
"""The metric holds for a minute what happened when the controller had just begun."""


def say(words: str) -> None:
    """Prints a line: what the parts of a test print is not wanted here."""
    print(words, file=sys.__stdout__, flush=True)


def store(
    world: World,
    namespace: str,
    jobs: list[dict[str, Any]],
    operators: Path | None = None,
    **status: Any,
) -> None:
    """Stores jobs, as several users would; with a status, the operator has worked on them."""

    def write(some: list[dict[str, Any]]) -> None:
        client = Client(world.kubectl.kubeconfig)
        operator = Client(operators) if operators else client
        for job in some:
            path = path_of("gpujobs", job["metadata"]["name"], namespace)
            code, answer = client.send("POST", path.rpartition("/")[0], job)
            assert code == 201, answer
            if status:
                code, answer = operator.send("PUT", f"{path}/status", answer | {"status": status})
                assert code == 200, answer

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, [jobs[number::WRITERS] for number in range(WRITERS)]))


def a_job(name: str, **spec: Any) -> dict[str, Any]:
    """A job that can be rented, changed by keyword."""
    wanted = {
        "image": "python:3.11",
        "command": ["sleep", "600"],
        "activeDeadlineSeconds": 120,
        "gpu": {"models": ["RTX 4090"]},
        "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
        "cost": {"ceiling": "2.00"},
    }
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name},
        "spec": wanted | spec,
    }


class Looks:
    """Reads the metrics again and again, and keeps the highest figures."""

    def __init__(self, world: World) -> None:
        self.highest: dict[str, float] = {}
        """By name and labels; the stall while the controller begins is kept apart."""
        world.metrics()  # Makes the account that may read them.
        self._token = world.kubectl("create", "token", "scraper", "-n", "gpujob-system").strip()
        self._operator = world.operator
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            begins = time.monotonic() - self._began < START_SECONDS
            _, told = self._operator.probe("metrics", self._token)
            for family in text_string_to_metric_families(told):
                for name, labels, value, *_ in family.samples:
                    where = labels.get("lane") or ("start" if begins else "later")
                    key = f"{name} {where}"
                    self.highest[key] = max(self.highest.get(key, 0.0), value)

    def tell(self) -> None:
        """Prints the highest figures, and ends."""
        self._over.set()
        self._thread.join()
        found = self.highest
        stalls = [found.get(f"gpujob_longest_stall_seconds {one}") for one in ("start", "later")]
        first, then = ("not seen" if one is None else f"{one * 1000:.0f} ms" for one in stalls)
        say(
            f"longest stall of the loop: at the start {first}, then {then}; goal {STALL_GOAL_MS} ms"
        )
        for lane in ("machines", "nodes", "jobs"):
            waiting = found.get(f"gpujob_waiting_objects {lane}", 0.0)
            oldest = found.get(f"gpujob_waiting_seconds {lane}", 0.0)
            say(f"lane {lane}: at most {waiting:.0f} waiting, the oldest for {oldest:.2f} s")


def finished_status() -> dict[str, Any]:
    """The status of a job that has ended."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdicts = {"Complete": "True", "Failed": "False", "Ready": "True"}
    return {
        "phase": "Succeeded",
        "attempt": 1,
        "observedGeneration": 1,
        "completionTime": now,
        "end": {"reason": "Complete", "message": "the workload exited with code 0"},
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": "Complete",
                "message": "the workload exited with code 0",
                "lastTransitionTime": now,
                "observedGeneration": 1,
            }
            for kind, status in verdicts.items()
        ],
    }


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Prints how late each machine was destroyed."""
    with control_plane(folder / "plane") as plane:
        simulator = Simulator(folder)
        simulator.start()
        with (
            proxy(plane.url, plane.ca) as cluster,
            proxy(simulator.url) as market,
            staged(plane, simulator, folder) as world,
            fresh_namespace(world.kubectl) as others,
        ):
            config = operators_config(plane, folder / "slow.kubeconfig", cluster.url)
            plane_config = operators_config(plane, folder / "operators.kubeconfig")
            say(f"storing {options.finished} finished and {options.waiting} waiting jobs")
            finished = [a_job(f"f-{n}") for n in range(options.finished)]
            store(world, others, finished, plane_config, **finished_status())
            waiting = [
                a_job(f"w-{n}", resources={"diskGB": 20 + n}, cost={"ceiling": "0.01"})
                for n in range(options.waiting)
            ]
            store(world, others, waiting)
            simulator.faults(slow_boot={"count": -1, "seconds": 1e9})
            market.delay = lambda seen: options.search if "bundles" in seen.path else 0.0
            began = time.monotonic()
            world.operator.start(
                KUBECONFIG=str(config),
                GPUJOB_PROVIDER_URL=market.url,
                GPUJOB_BOOT_CAP_SECONDS=str(BOOT_CAP_SECONDS),
                GPUJOB_LIST_LAG_SECONDS="5",
            )
            looks = Looks(world)
            cluster.delay = lambda seen: 0.0 if "watch=" in seen.path else options.api / 1000
            for number in range(options.machines):
                store(world, world.namespace, [a_job(f"machine-{number}", maxRents=1)])
            rented = eventually(
                "machines are rented",
                lambda: len(simulator.ledger()) >= options.machines and simulator.ledger(),
                PATIENCE_SECONDS,
            )
            say(f"machines rented {time.monotonic() - began:.0f} s after the controller's start")
            seen_at = time.monotonic()
            late_comer = a_job("new", resources={"diskGB": 19}, cost={"ceiling": "0.01"})
            store(world, world.namespace, [late_comer])
            eventually(
                "a new job is seen", lambda: world.job("new").get("status"), PATIENCE_SECONDS
            )
            say(f"a new job has its first status after {time.monotonic() - seen_at:.1f} s")
            numbers = {f"/api/v0/instances/{lease['id']}/" for lease in rented}

            def sent() -> dict[str, Seen]:
                asked = [one for one in market.requests if one.method == "DELETE"]
                return {one.path: one for one in reversed(asked)}

            eventually("all are destroyed", lambda: numbers <= sent().keys(), PATIENCE_SECONDS)
            late = []
            for node in world.kubectl.items("gpunodes", "-n", world.namespace):
                if (rent := node.get("status", {}).get("rent")) is None:
                    continue
                number = node["status"]["lease"]["instanceID"]
                due = datetime.fromisoformat(rent["requestedAt"]).timestamp() + BOOT_CAP_SECONDS
                late.append(sent()[f"/api/v0/instances/{number}/"].at - due)
            say(
                f"due to destroy sent, over {len(late)} machines: "
                f"median {statistics.median(late):.2f} s, at most {max(late):.2f} s"
            )
            time.sleep(max(options.seconds - (time.monotonic() - began), 0.0))
            looks.tell()
        simulator.stop()


def main() -> int:
    """Reads the options and measures."""
    parser = argparse.ArgumentParser(prog="hack/bench due", description=__doc__)
    parser.add_argument("--machines", type=int, default=5)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--search", type=float, default=5.0, help="seconds that a search takes")
    parser.add_argument("--api", type=float, default=0.0, help="milliseconds added to each call")
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="for how long the controller runs at least"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="gpujob-due-") as folder,
        redirect_stdout(StringIO()),
    ):
        measure(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
