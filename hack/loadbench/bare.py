"""`python -m loadbench.bare`: the writes of a burst, by a client that does nothing else.

What the API server needs for them is the lower bound of any controller. The client is Python's
`http.client` in several processes, each with one connection per account.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.integration.client import Client, path_of

from gpujob.api.meta import FINALIZER
from loadbench.plant import Original

PROCESSES = 4
Body = dict[str, Any]
Send = Callable[..., Body]


def sender(config: Path) -> Send:
    """Returns what sends one request as the user of a kubeconfig, and returns the answer."""
    client = Client(config)

    def send(method: str, path: str, body: Body, kind: str = "application/json") -> Body:
        code, answer = client.send(method, path, body, kind)
        assert code in (200, 201), answer
        return answer

    return send


def some(
    original: Original, per_job: Counter[str], names: list[str], admin: Path, ours: Path
) -> None:
    """Makes the objects of some jobs, with as many writes as the controller needed."""
    user, operator = sender(admin), sender(ours)
    place = original.job["metadata"]["namespace"]

    def create(send: Send, plural: str, body: Body) -> Body:
        return send("POST", path_of(plural, "", place).rstrip("/"), body)

    def status(plural: str, kind: str, stored: Body, times: int) -> None:
        told = original.like(kind, stored["metadata"]["name"].removesuffix("-0-1"), {})["status"]
        path = f"{path_of(plural, stored['metadata']['name'], place)}/status"
        for number in range(times):
            # Else the API server would find nothing to store.
            told["conditions"][0]["message"] = f"write {number}"
            stored = operator("PUT", path, stored | {"status": told})

    for name in names:
        bare = original.like("job", name, {})
        bare["metadata"] = {"name": name}
        del bare["status"]
        job = create(user, "gpujobs", bare)
        held = {"metadata": {"finalizers": [FINALIZER]}}
        path, merge = path_of("gpujobs", name, place), "application/merge-patch+json"
        job = operator("PATCH", path, held, merge)
        uids = {original.job["metadata"]["uid"]: job["metadata"]["uid"]}
        status("gpujobs", "job", job, per_job["update gpujobs/status"])
        node = create(operator, "gpunodes", original.like("node", name, uids) | {"status": {}})
        uids[original.node["metadata"]["uid"]] = node["metadata"]["uid"]
        secret = {"metadata": {"name": f"{name}-ssh"}, "stringData": {"id_ed25519": "x" * 400}}
        create(operator, "secrets", secret)
        status("gpunodes", "node", node, per_job["update gpunodes/status"])
        pod = original.like("pod", name, uids)
        pod.pop("status", None)
        create(operator, "pods", pod)


def main() -> None:
    """Makes all of them, as the standard input says, and prints how many seconds that took."""
    parser = argparse.ArgumentParser(prog="loadbench.bare")
    parser.add_argument("--admin", type=Path, required=True)
    parser.add_argument("--operator", type=Path, required=True)
    options = parser.parse_args()
    asked = json.load(sys.stdin)
    original, per_job = Original(**asked["original"]), Counter(asked["per_job"])
    names = [f"b-{number}" for number in range(asked["count"])]
    with ProcessPoolExecutor(PROCESSES) as pool:
        # Their start is no part of what is measured.
        list(pool.map(abs, range(PROCESSES * 8)))
        began = time.monotonic()
        shares = [names[at::PROCESSES] for at in range(PROCESSES)]
        done = [
            pool.submit(some, original, per_job, share, options.admin, options.operator)
            for share in shares
        ]
        for one in done:
            one.result()
        print(time.monotonic() - began)


if __name__ == "__main__":
    main()
