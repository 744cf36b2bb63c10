"""What a job would cost: asked of the API, answered by the controller, true of the job itself."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.api import BOOTSTRAP, Answer, Api, api_server, authorities_file, token_file
from tests.integration.conftest import World
from tests.integration.parts import AUDIENCE, eventually

from gpujob.api.estimate import ESTIMATE_BYTES_MAX

SPEC: dict[str, Any] = {
    "image": "python:3.11",
    "command": ["sh", "-c", "sleep 2"],
    "activeDeadlineSeconds": 120,
    "gpu": {"models": ["RTX 4090"]},
    "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
    "cost": {"ceiling": "2.00"},
}
ESTIMATES = "/v1/namespaces/{}/estimates"


def body(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "train"}, "spec": SPEC | spec}


@pytest.fixture
def api(world: World, tmp_path: Path) -> Iterator[Api]:
    """The API beside a controller that leads, and has heard of the jobs that there are."""
    eventually("the controller is ready", lambda: world.operator.probe("readyz") == (200, "ok"))
    settings = {
        "GPUJOB_API_BOOTSTRAP_TOKEN": BOOTSTRAP,
        "GPUJOB_TRANSPORT_URL": world.operator.transport_url,
        "GPUJOB_TOKEN_FILE": str(token_file(world.kubectl, "gpujob-server", tmp_path)),
        "GPUJOB_AUTHORITIES_FILE": str(authorities_file(world.kubectl, tmp_path)),
    }
    with api_server(world.plane, tmp_path, {}, **settings) as served:
        served.namespace, served.token = world.namespace, BOOTSTRAP
        yield served


def estimate(api: Api, **spec: Any) -> Answer:
    """Returns the answer to a question; tests that share a controller share its limit too."""

    def look() -> Answer | None:
        answer = api("POST", ESTIMATES, body(**spec))
        return None if answer.status == 429 else answer

    found: Answer = eventually("the limit lets a question through", look)
    return found


def test_an_estimate_is_what_the_job_is_then_told(world: World, api: Api) -> None:
    """Nothing is stored or rented for it; the job's own bound and offer are the same.

    On a market of its own: on a shared one another test's machine may become a cheaper offer.
    """
    told = estimate(api)
    assert told.status == 200, told
    assert told.body["admitted"] is True
    (chosen,) = (one for one in told.body["offers"] if one["chosen"])
    assert chosen["boundUSD"] == told.body["estimateUSD"]
    assert told.body["offersMatching"] >= len(told.body["offers"]) > 0
    assert world.kubectl.items("gpujobs,gpunodes", "-n", world.namespace) == []
    assert world.simulator.ledger() == []

    dear = estimate(api, cost={"ceiling": "0.01"}).body
    assert (dear["admitted"], dear["reason"]) == (False, "CeilingExceeded")
    assert "would fit" in dear["message"]
    none = estimate(api, gpu={"models": ["RTX 4090"], "count": 16}).body
    assert (none["reason"], none["offers"], none["offersMatching"]) == ("NoMatchingOffer", [], 0)
    absent = estimate(api, gpu={"models": ["RTX 4091"]})
    assert (absent.status, absent.body["errors"][0]["field"]) == (422, "spec.gpu.models[0]")

    busy = next(one for _ in range(60) if (one := api("POST", ESTIMATES, body())).status != 200)
    assert (busy.status, busy.headers["retry-after"]) == (429, "5"), busy
    assert "errorId" not in busy.body, "nothing is wrong that one could look for"

    job = body(command=world.waits())
    assert api("POST", "/v1/namespaces/{}/jobs", job).status == 201
    machines = "/v1/namespaces/{}/machines"
    (shown,) = eventually("its machine is shown", lambda: api("GET", machines).body["items"])
    assert (shown["job"], shown["gpu"]) == ("train", chosen["gpu"])
    world.let_go()
    job = world.await_reason("train", "Complete")
    assert api("GET", machines).body["items"] == [], "what is gone costs nothing"
    assert job["status"]["attempts"][0]["gpu"] == chosen["gpu"]
    assert job["status"]["cost"]["estimateUSD"] == told.body["estimateUSD"]


def test_when_the_market_or_the_controller_is_silent(world: World, api: Api) -> None:
    """No prices are a no; no controller is an error under whose id the log has the cause."""
    world.simulator.faults(server_error={"count": -1, "path": "/bundles"})
    unknown = api("POST", ESTIMATES, body()).body
    assert (unknown["admitted"], unknown["reason"]) == (False, "ProviderUnavailable")
    assert "estimateUSD" not in unknown
    world.operator.stop()
    silent = api("POST", ESTIMATES, body())
    assert (silent.status, silent.headers["retry-after"]) == (503, "5")
    assert "127.0.0.1" not in silent.raw.decode()
    (line,) = (line for line in api.server.log.splitlines() if silent.body["errorId"] in line)
    assert "the controller did not answer" in line


@pytest.mark.shared_world
def test_the_controller_answers_the_server_alone(world: World, tmp_path: Path) -> None:
    """Drivers and other accounts learn nothing, and what is no question is told so."""
    question = json.dumps({"version": 1, "namespace": "team", "spec": SPEC}).encode()
    server = token_file(world.kubectl, "gpujob-server", tmp_path).read_text().strip()
    driver = world.kubectl(
        "create", "token", "default", "-n", world.namespace, f"--audience={AUDIENCE}"
    ).strip()
    clusters = world.kubectl("create", "token", "gpujob-server", "-n", "gpujob-system").strip()

    def ask(raw: bytes, bearer: str) -> int:
        request = urllib.request.Request(
            world.operator.transport_url + "/v1/estimates",
            data=raw,
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {bearer}"} if bearer else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=world.trust()) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    eventually("the limit lets a question through", lambda: ask(question, server) == 200)
    assert [ask(question, shown) for shown in ("", "x", clusters, driver)] == [401, 401, 401, 403]
    for wrong in (b"", b"{", b"[]", b"\xff", b'{"version":1}', question[:-1] + b',"more":1}'):
        assert ask(wrong, server) == 400, wrong
    extra = json.dumps(
        {"version": 1, "namespace": "team", "spec": SPEC | {"colour": "red"}}
    ).encode()
    assert ask(extra, server) == 400
    assert ask(b" " * (ESTIMATE_BYTES_MAX + 1), server) == 413
    seen = {ask(question, server) for _ in range(60)}
    assert seen <= {200, 429}, seen
    assert 429 in seen, "jobs need the provider's searches too"
    others = question.replace(b'"team"', b'"others"')
    assert ask(others, server) == 200, "one namespace's limit is not another's"
