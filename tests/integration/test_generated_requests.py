"""Requests made from the API's schema: none breaks it, and each answer is as documented.

By `hack/fuzz api` as many as are wanted, else for some seconds.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.api import Api, api_server, authorities_file, record, token_file
from tests.integration.conftest import control_plane, fresh_namespace, staged
from tests.integration.parts import ROOT, Simulator

from gpujob.core.api_tokens import token_of
from localcluster.control_plane import ControlPlane

HOOKS = Path(__file__).with_name("generator_hooks.py")
SCHEMA = ROOT / "operator/gpujob/server/http_api/openapi.json"
TOKENS = [token_of(secrets.token_bytes(32)) for _ in range(200)]
"""So many that hardly a request is told to wait."""
FEW = 5
"""Of each operation. What covers each bound of the schema takes minutes: by `hack/fuzz api`."""
NAMES = [f"job-{number}" for number in range(10)]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)
REFUSED = ["400", "401", "403", "404", "405", "409", "410", "412", "413", "415", "422", "429"]
TAKEN = ["2xx", "401", "403", "404", "409", "410", "412", "422", "429"]
"""Also what is of the schema may be refused: by CEL, a conflict, or what there is by then; and
what only the API server can know is left out in generator_hooks.py."""


def configuration(authority: Path, namespace: str) -> str:
    """What the generator is told; some names are of things that there are."""
    return f"""
hooks = {json.dumps(str(HOOKS))}
tls-verify = {json.dumps(str(authority))}
max-stream-events = 1
request-timeout = 10
continue-on-failure = true
[dictionaries]
namespaces = {{values = [{json.dumps(namespace)}, "default"]}}
names = {{values = {json.dumps(NAMES)}}}
[parameters]
"path.namespace" = {{dictionary = "namespaces", probability = 0.8}}
"path.name" = {{dictionary = "names", probability = 0.7}}
"body.metadata.name" = {{dictionary = "names", probability = 0.3}}
[generation]
database = "none"
[checks]
negative_data_rejection.expected-statuses = {json.dumps(REFUSED)}
positive_data_acceptance.expected-statuses = {json.dumps(TAKEN)}
[[operations]]
# Nothing may happen for long: a stream is left soon.
include-name-regex = '/watch/'
request-timeout = 1
"""


@contextmanager
def another_clusters_controller(folder: Path) -> Iterator[dict[str, str]]:
    """Yields how to ask one that leads: in a cluster of its own, where no made-up job is run."""
    folder.mkdir()
    simulator = Simulator(folder)
    simulator.start()
    try:
        with (
            control_plane(folder / "plane") as plane,
            staged(plane, simulator, folder) as world,
        ):
            world.operator.start()
            yield {
                "GPUJOB_TRANSPORT_URL": world.operator.transport_url,
                "GPUJOB_TOKEN_FILE": str(token_file(world.kubectl, "gpujob-server", folder)),
                "GPUJOB_AUTHORITIES_FILE": str(authorities_file(world.kubectl, folder)),
            }
    finally:
        simulator.stop()


@contextmanager
def jobs_to_ask_for(api: Api) -> Iterator[None]:
    """Creates jobs, and again those that some request has deleted."""
    over = threading.Event()

    def keep() -> None:
        token = 0
        while not over.wait(1):
            for name in NAMES:
                api.token = TOKENS[token % len(TOKENS)]
                api.create(name)
                token += 1

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


@contextmanager
def asked_server(plane: ControlPlane, folder: Path) -> Iterator[Api]:
    """A server with all that the generator needs to ask it; its files are in the folder."""
    entries = {f"token-{number}": record(token) for number, token in enumerate(TOKENS)}
    with (
        another_clusters_controller(folder / "another") as settings,
        api_server(plane, folder, entries, **settings) as api,
        fresh_namespace(api.kubectl) as namespace,
    ):
        api.namespace = namespace
        (folder / "ca.crt").write_text(api.authority)
        (folder / "tokens").write_text("\n".join(TOKENS))
        (folder / "st.toml").write_text(configuration(folder / "ca.crt", namespace))
        with jobs_to_ask_for(api):
            yield api


def generated(api: Api, folder: Path, *, examples: int, phases: str, seed: int) -> tuple[int, str]:
    """Sends so many requests for each operation; returns how many that were in all, and what is
    wrong with their answers, which is empty if nothing is."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={folder / 'st.toml'}"),
        *("--no-color", "run", str(SCHEMA), f"--url=https://localhost:{api.port}"),
        *(f"--max-examples={examples}", f"--phases={phases}"),
        *(f"--seed={seed}", f"--checks={','.join(CHECKS)}"),
        "--workers=1",
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"GPUJOB_API_TOKENS": str(folder / "tokens")},
        capture_output=True,
        text=True,
    )
    cases = re.findall(r"(\d+) generated", done.stdout)
    return sum(map(int, cases)), done.stdout[-20_000:] + done.stderr if done.returncode else ""


def answered(api: Api) -> Counter[tuple[str, str]]:
    """Counts what the server has answered until now, by route and status."""
    return Counter(re.findall(r'"route": "([^"]*)", "status": (\d+)', api.server.log))


def faults(api: Api) -> list[str]:
    """Returns what its log shows that nobody may see."""
    lines = [line for line in api.server.log.splitlines() if "request_crashed" in line]
    lines += [f"{route}: {status}" for route, status in answered(api) if status.startswith("5")]
    return lines


@pytest.mark.timeout(900)
def test_each_answer_is_as_documented(plane: ControlPlane, tmp_path: Path) -> None:
    """No 5xx, no status and no body that the schema does not have; refusals where they belong."""
    with asked_server(plane, tmp_path) as api:
        phases = "examples,fuzzing,stateful"
        cases, wrong = generated(api, tmp_path, examples=FEW, phases=phases, seed=1)
        answers, broken = answered(api), faults(api)

    assert wrong == ""
    assert broken == []
    assert cases > 0
    estimates = {status: n for (route, status), n in answers.items() if route.endswith("estimates")}
    assert "200" in estimates, "a controller was asked"
    # It answers one estimate in two seconds.
    waits = sum(n for (_, status), n in answers.items() if status == "429")
    assert waits - estimates.get("429", 0) < answers.total() / 20, "most must reach the routes"
