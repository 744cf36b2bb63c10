"""The model API server of the simulation answers as the real one does.

What the simulation proves hangs on versions, uids, deletions and finalizers: generated sequences of
requests go to both, and outcome and objects are compared after each.
"""

import json
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from kubernetes.aio import client, config
from tests.integration.parts import Kubectl
from tests.simulation.model import Chance, ModelKube, shown

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.meta import FINALIZER
from gpujob.controller.cache import CLOSED, OPEN
from localcluster.control_plane import ControlPlane

NAMES = ("one", "two")
REQUESTS = 60
STATUSES: dict[str, list[Body]] = {
    "closed": [{"attempt": 1, "closed": True}],
    "opened": [{"closed": True}, {"attempt": 2}],
    "left": [{"closed": False}, {"closed": True}, {"attempt": 1, "closed": True}],
    "open": [],
}
"""What is written to some jobs, one after the other."""


class Calm(Chance):
    """No faults, and no time between the requests."""

    def __init__(self) -> None:
        super().__init__(0, level=0.0)

    async def pause(self) -> None:
        """Goes on at once."""


class Side:
    """One of the two servers, with all that it has ever answered."""

    def __init__(self, kube: KubeClient, users: KubeClient, namespace: str) -> None:
        """`users` changes specs."""
        self._kube, self._users = kube, users
        self._namespace = namespace
        self.answers: list[Body | None] = []

    async def ask(self, verb: str, name: str, basis: int, value: Any) -> str:
        """Makes a request on an earlier answer, and returns its outcome in a word."""
        answer = None
        stored = self.answers[basis] if self.answers else None
        try:
            if verb == "create":
                answer = await self._kube.create("GpuJob", self._namespace, _job(name, value))
            elif verb == "get":
                answer = await self._kube.get("GpuJob", self._namespace, name)
            elif verb == "delete":
                uid = stored["metadata"]["uid"] if stored and value else None
                await self._kube.delete("GpuJob", self._namespace, name, uid)
            elif stored is not None:
                answer = await self._write(verb, stored, value)
        except ClusterError as error:
            self.answers.append(None)
            return type(error).__name__
        self.answers.append(answer)
        return "done"

    async def _write(self, verb: str, stored: Body, value: Any) -> Body:
        if verb == "status":
            return await self._kube.write_status("GpuJob", stored, {"attempt": value})
        if verb == "finalizers":
            # Always a change: whether a patch without one makes a new version is the server's whim.
            held = [] if stored["metadata"].get("finalizers") else [FINALIZER]
            return await self._kube.set_finalizers("GpuJob", stored, held)
        spec = {**stored["spec"], "suspend": bool(value)}
        return await self._users.replace("GpuJob", {**stored, "spec": spec})

    async def objects(self) -> dict[str, Any]:
        """Returns what matters of all objects, in terms that do not depend on the server."""
        born = [body["metadata"]["uid"] for body in self.answers if body is not None]
        found = await self._kube.list_all("GpuJob")
        return {
            body["metadata"]["name"]: (
                born.index(body["metadata"]["uid"]),
                body["metadata"].get("finalizers", []),
                "deletionTimestamp" in body["metadata"],
                body["metadata"]["generation"],
                body["spec"].get("suspend", False),
                body.get("status", {}).get("attempt", 0),
            )
            for body in found
            if body["metadata"]["namespace"] == self._namespace
        }


def _job(name: str, held: int) -> Body:
    return {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name, "finalizers": [FINALIZER] if held else []},
        "spec": {
            "image": "image",
            "command": ["work"],
            "activeDeadlineSeconds": 60,
            "gpu": {"models": ["RTX 4090"]},
            "cost": {"ceiling": "1.00"},
            "suspend": False,
        },
    }


async def _api(plane: ControlPlane) -> client.ApiClient:
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(plane.kubeconfig), client_configuration=configuration
    )
    return client.ApiClient(configuration)


@pytest.fixture
async def users(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """An administrator's client: the operator may not change what a user has asked for."""
    kube = KubeClient(await _api(plane))
    yield kube
    await kube.close()


@pytest.fixture
async def real(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """The operator's client of the real API server, with the rights of an administrator."""
    api = await _api(plane)
    # Only the operator may write a status, and only administrators create jobs and delete them.
    api.set_default_header("Impersonate-User", "system:serviceaccount:gpujob-system:gpujob")
    api.set_default_header("Impersonate-Group", "system:masters")
    kube = KubeClient(api)
    yield kube
    await kube.close()


@pytest.mark.parametrize("seed", range(12))
async def test_the_model_answers_as_the_real_one(
    seed: int, real: KubeClient, users: KubeClient, namespace: str
) -> None:
    """Stale versions, wrong uids, deletions with and without finalizers, names used again."""
    chance = random.Random(seed)
    model_kube = ModelKube(Calm())
    sides = Side(model_kube, model_kube, namespace), Side(real, users, namespace)
    verbs = ("create", "create", "get", "status", "status", "finalizers", "spec", "delete")
    told = []
    for number in range(REQUESTS):
        verb, name = chance.choice(verbs), chance.choice(NAMES)
        # Mostly on what was answered last, sometimes on something old.
        oldest = 0 if chance.random() < 0.3 else max(number - 3, 0)
        basis = chance.randrange(oldest, number) if number else 0
        value = chance.choice((0, 1, 2))
        model, true = [await side.ask(verb, name, basis, value) for side in sides]
        told.append(f"{verb} {name} on {basis} with {value}: {true}")
        assert model == true, "\n".join(told)
        assert await sides[0].objects() == await sides[1].objects(), "\n".join(told)


async def test_the_model_selects_as_the_real_one(
    real: KubeClient, namespace: str, kubectl: Kubectl
) -> None:
    """What is closed leaves list and watch, as deleted and with the version of that write; what
    lacks the field is in both.
    """
    model = ModelKube(Calm())
    seen: list[tuple[Body, bool]] = []

    def see(kind: str, body: Body, gone: bool, before: Body | None) -> None:
        if (event := shown(body, gone, before, OPEN)) is not None:
            seen.append(event)

    model.on_write.append(see)
    versions: list[dict[str, str]] = []
    for kube in (model, real):
        written = {}
        for name in STATUSES:
            body = await kube.create("GpuJob", namespace, _job(name, 0))
            written[name] = body["metadata"]["resourceVersion"]
            for status in STATUSES[name]:
                body = await kube.write_status("GpuJob", body, status)
                written[f"{name} {status}"] = body["metadata"]["resourceVersion"]
        for name in ("closed", "open"):
            await kube.delete("GpuJob", namespace, name)
        versions.append(written)

    def told(body: Body, kind: str, written: dict[str, str]) -> tuple[str, str, bool, str]:
        version = body["metadata"]["resourceVersion"]
        write = next((which for which, one in written.items() if one == version), "none")
        is_closed = (body.get("status") or {}).get("closed") is True
        return body["metadata"]["name"], kind, is_closed, write

    path = f"/apis/gpujob.dev/v1alpha1/namespaces/{namespace}/gpujobs"
    since = int(versions[1]["closed"]) - 1
    query = f"watch=1&timeoutSeconds=2&resourceVersion={since}&fieldSelector={quote(OPEN)}"
    lines = kubectl("get", "--raw", f"{path}?{query}").splitlines()
    events = [json.loads(line) for line in lines]
    theirs = [
        told(one["object"], "out" if one["type"] == "DELETED" else "in", versions[1])
        for one in events
    ]
    ours = [told(body, "out" if gone else "in", versions[0]) for body, gone in seen]
    assert ours == theirs
    assert ("closed", "out", False, "closed {'attempt': 1, 'closed': True}") in theirs
    lists = []
    for kube in (model, real):
        for fields in (OPEN, CLOSED, ""):
            found = await kube.list_all("GpuJob", fields=fields)
            mine = [one for one in found if one["metadata"]["namespace"] == namespace]
            lists.append(sorted(one["metadata"]["name"] for one in mine))
    assert lists == [["opened"], ["left"], ["left", "opened"]] * 2
