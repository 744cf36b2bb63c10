"""Private images: the pull secret's way to the provider, and nowhere else."""

import base64
import json
from typing import Any

import pytest
from tests.integration.conftest import World
from tests.integration.parts import eventually

from vastsim.images import IMAGES, Login

PULL = {"name": "registry", "exposeToProvider": True}
KINDS = "gpujobs,gpunodes,pods,events,configmaps,secrets,services,leases,serviceaccounts"


def login_of(image: str) -> Login:
    """What the simulator's registry asks for."""
    login = IMAGES[image].login
    assert login is not None
    return login


def put_secret(world: World, image: str, **changes: str) -> None:
    """Creates a pull secret with the entry for an image, and with one of another registry."""
    login = login_of(image)
    user, password = changes.get("user", login.user), changes.get("password", login.password)
    auths = {
        changes.get("registry", login.registry): {
            "auth": base64.b64encode(f"{user}:{password}".encode()).decode()
        },
        "ghcr.io/other": {"username": "other", "password": "canary-of-another-registry"},
    }
    text = json.dumps({"auths": auths})
    world.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": "registry", "namespace": world.namespace},
            "data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()},
        }
    )


def creates(world: World) -> list[dict[str, Any]]:
    """The bodies of the rent requests for the job."""
    uid = world.job("train")["metadata"]["uid"]
    sent = [
        json.loads(one["body"])
        for one in world.simulator.sent()
        if one["method"] == "PUT" and "/asks/" in one["target"]
    ]
    return [one for one in sent if one["label"].endswith(f"/{uid}")]


def spellings(secret: str) -> list[str]:
    """A secret as it is, and packed at each offset."""
    packed = [base64.b64encode(b"x" * at + secret.encode()).decode()[4:-4] for at in range(3)]
    return [secret, json.dumps(secret)[1:-1], *packed]


@pytest.mark.shared_world
@pytest.mark.parametrize("image", ["vastsim/private", "registry.example.com:5000/team/private"])
def test_a_pull_secret_gets_to_the_provider_and_nowhere_else(world: World, image: str) -> None:
    """Over a whole life: only the create body has it, and only the entry for this registry."""
    put_secret(world, image)
    world.apply_job("train", image=f"{image}:1", imagePullSecret=PULL)
    job = world.await_reason("train", "Complete")
    login = login_of(image)
    (body,) = creates(world)

    assert body["image_login"] == f"-u {login.user} -p {login.password} {login.registry}"
    assert len(world.simulator.of(job)) == 1
    seen = {
        "the operator's log": world.operator.log,
        "the drivers' logs": world.pods.logs(),
        "the metrics": world.metrics(),
        "the simulator's ledger": json.dumps(world.simulator.ledger()),
    }
    for space in (world.namespace, "gpujob-system"):
        found = world.kubectl.items(KINDS, "-n", space)
        assert (
            any(one["metadata"]["name"] == "registry" for one in found) or space != world.namespace
        )
        for one in found:
            if one["metadata"]["name"] != "registry":
                seen[f"{space}/{one['metadata']['name']} {len(seen)}"] = json.dumps(one)
    for token in world.pods.files("token"):
        for path in (one for one in token.parent.rglob("*") if one.is_file()):
            if path.parent.name != "registry":
                seen[str(path)] = path.read_bytes().decode("latin-1")
    others = [one for one in world.simulator.sent() if "image_login" not in one["body"]]
    seen["other requests"] = json.dumps(others)
    for password in (login.password, "canary-of-another-registry"):
        for spelling in spellings(password):
            assert [place for place, text in seen.items() if spelling in text] == [], password


@pytest.mark.shared_world
def test_a_wrong_password_ends_the_job_after_one_rent(world: World) -> None:
    """It is the image's end, in the provider's words, and no host's fault."""
    put_secret(world, "vastsim/private", password="wrong-canary")
    world.apply_job("train", image="vastsim/private", imagePullSecret=PULL)
    job = world.await_reason("train", "ImageUnusable")

    assert "unauthorized" in world.condition("train", "Ready")["message"]
    assert len(world.simulator.of(job)) == 1
    (attempt,) = job["status"]["attempts"]
    assert attempt["reason"] == "ImageUnusable"
    assert "wrong-canary" not in json.dumps(job) + world.operator.log + world.pods.logs()
    world.await_released()


@pytest.mark.shared_world
def test_without_a_pull_secret_a_private_image_is_denied(world: World) -> None:
    """Else the tests above would show nothing."""
    world.apply_job("train", image="vastsim/private")
    world.await_reason("train", "ImageUnusable")

    assert "pull access denied" in world.condition("train", "Ready")["message"]
    world.await_released()


@pytest.mark.shared_world
def test_a_secret_without_the_right_entry_rents_nothing(world: World) -> None:
    """The job says which registry is missing, and which are there."""
    put_secret(world, "vastsim/private", registry="quay.io")
    world.apply_job("train", image="vastsim/private", imagePullSecret=PULL)
    job = world.await_reason("train", "PullSecretUnusable")

    told = world.condition("train", "Ready")["message"]
    assert "no entry for the registry docker.io; its entries: quay.io, ghcr.io/other" in told
    assert world.condition("train", "Failed")["status"] == "True"
    assert world.simulator.of(job) == []


def test_a_missing_secret_keeps_the_pod_waiting_and_a_new_leader_asks_again(stage: World) -> None:
    """What was handed over dies with the process that had it, and is handed over once more."""
    world = stage
    world.operator.start(GPUJOB_QUOTE_AGE_SECONDS="2")
    world.apply_job("train", image="vastsim/private", imagePullSecret=PULL)

    def says() -> str:
        return str(world.condition("train", "Ready").get("message", ""))

    eventually("it is said", lambda: "cannot start unless Secret registry exists" in says())
    world.simulator.faults(server_error={"count": -1, "path": "/bundles"})
    # The prices that are known by now are used for two seconds.
    world.await_listings(8)
    put_secret(world, "vastsim/private")
    world.await_reason("train", "ProviderUnavailable")
    world.operator.kill()
    world.simulator.faults()
    assert creates(world) == []
    world.operator.start(GPUJOB_QUOTE_AGE_SECONDS="2")
    world.await_reason("train", "Complete")

    (body,) = creates(world)
    assert login_of("vastsim/private").password in body["image_login"]


def test_a_login_that_was_renewed_before_the_rent_is_the_one_that_is_sent(stage: World) -> None:
    """A job may wait for a price for longer than the token of a registry lives."""
    world = stage
    world.operator.start(GPUJOB_QUOTE_AGE_SECONDS="2")
    world.apply_job("train", image="vastsim/private", imagePullSecret=PULL)
    eventually(
        "its driver waits for the Secret",
        lambda: "unless Secret" in str(world.condition("train", "Ready").get("message", "")),
    )
    world.simulator.faults(server_error={"count": -1, "path": "/bundles"})
    world.await_listings(8)
    put_secret(world, "vastsim/private", password="expired-by-now")
    world.await_reason("train", "ProviderUnavailable")
    put_secret(world, "vastsim/private")
    stored = world.kubectl.get("secret", "registry", world.namespace)
    assert stored is not None
    # As the kubelet does within a minute, and at once: nobody sees half of it.
    (mounted,) = world.pods.files("registry/.dockerconfigjson")
    renewed = mounted.with_name("renewed")
    renewed.write_bytes(base64.b64decode(stored["data"][".dockerconfigjson"]))
    renewed.rename(mounted)
    world.await_listings(8)
    world.simulator.faults()
    world.await_reason("train", "Complete", "ImageUnusable")

    (body,) = creates(world)
    assert login_of("vastsim/private").password in body["image_login"]


def test_a_driver_that_is_replaced_after_the_rent_needs_no_pull_secret(stage: World) -> None:
    """The provider has the login by then: without the Secret, the workload would be given up."""
    world = stage
    world.operator.start(GPUJOB_DRIVER_REPLACEMENT_SECONDS="10")
    put_secret(world, "vastsim/private")
    world.apply_job("train", image="vastsim/private", imagePullSecret=PULL, command=world.waits())
    world.await_reason("train", "Running")
    world.kubectl("delete", "secret", "registry", "-n", world.namespace)
    assert world.kubectl.get("secret", "registry", world.namespace) is None
    (pod,) = world.kubectl.items("pods", "-n", world.namespace)
    world.kubectl("delete", "pod", pod["metadata"]["name"], "-n", world.namespace)
    eventually(
        "another driver reports, or is given up",
        lambda: (
            any(
                one["metadata"]["uid"] != pod["metadata"]["uid"]
                and one.get("status", {}).get("phase") == "Running"
                for one in world.kubectl.items("pods", "-n", world.namespace)
            )
            or world.job("train")["status"].get("attempts")
        ),
    )
    world.let_go()
    job = world.await_reason("train", "Complete", "Retrying")

    assert [one["reason"] for one in job["status"]["attempts"]] == ["Completed"]


@pytest.mark.shared_world
@pytest.mark.parametrize("given", [{"name": "registry"}, {**PULL, "exposeToProvider": False}])
def test_who_does_not_say_so_exposes_nothing(world: World, given: dict[str, Any]) -> None:
    """The API server itself refuses, and says why."""
    with pytest.raises(AssertionError, match="the provider and the owner of the host can read"):
        world.apply_job("train", imagePullSecret=given)
    world.apply_job("train", imagePullSecret=PULL, suspend=True)
    for other in (None, {**PULL, "name": "other"}):
        patch = json.dumps({"spec": {"imagePullSecret": other}})
        done = world.kubectl.run(
            *("patch", "gpujob", "train", "-n", world.namespace, "--type=merge", "-p", patch)
        )
        assert "imagePullSecret is immutable" in done.stderr
