"""Requests made from the API's schema: none breaks it, and each answer is as documented.

By hack/fuzz-api as many as are wanted, else for some seconds.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
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


@pytest.mark.timeout(900)
def test_each_answer_is_as_documented(
    plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No 5xx, no status and no body that the schema does not have; refusals where they belong."""
    wanted, seed = request.config.getoption("examples"), request.config.getoption("api_seed")
    # What covers each bound of the schema takes a minute: by hack/fuzz-api.
    phases = "examples,coverage,fuzzing,stateful" if wanted else "examples,fuzzing,stateful"
    entries = {f"token-{number}": record(token) for number, token in enumerate(TOKENS)}
    with (
        another_clusters_controller(tmp_path / "another") as settings,
        api_server(plane, tmp_path, entries, **settings) as api,
        fresh_namespace(api.kubectl) as namespace,
    ):
        api.namespace = namespace
        (tmp_path / "ca.crt").write_text(api.authority)
        (tmp_path / "tokens").write_text("\n".join(TOKENS))
        (tmp_path / "st.toml").write_text(configuration(tmp_path / "ca.crt", namespace))
        command = [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={tmp_path / 'st.toml'}"),
            *("--no-color", "run", str(SCHEMA), f"--url=https://localhost:{api.port}"),
            *(f"--max-examples={wanted or FEW}", f"--phases={phases}"),
            *(f"--seed={seed}", f"--checks={','.join(CHECKS)}"),
            "--workers=1",
        ]
        with jobs_to_ask_for(api):
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=os.environ | {"GPUJOB_API_TOKENS": str(tmp_path / "tokens")},
                capture_output=True,
                text=True,
            )
        requests = re.findall(r'"route": "([^"]*)", "status": (\d+)', api.server.log)
        broken = [line for line in api.server.log.splitlines() if "request_crashed" in line]
    print(f"checks: {', '.join(CHECKS)}")
    statuses = [status for _, status in requests]
    (cases,) = re.findall(r"(\d+) generated", done.stdout)
    counted = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(f"figure: {cases} cases, {len(statuses)} answers by status: {counted}")

    assert done.returncode == 0, done.stdout[-20_000:]
    assert broken == []
    assert not any(status.startswith("5") for status in statuses)
    estimates = [status for route, status in requests if route.endswith("/estimates")]
    assert "200" in estimates, "a controller was asked"
    # It answers one estimate in two seconds.
    waits = statuses.count("429") - estimates.count("429")
    assert waits < len(statuses) / 20, "most must reach the routes"
