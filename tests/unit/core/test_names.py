"""What is made for a job has a name that fits, and that nothing else of the namespace has."""

import re

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import RECORDED, a_job, a_node, node_observation

from gpujob.api.gpujob import NAME_LENGTH_MAX
from gpujob.api.gpunode import DriverStatus, GpuNode
from gpujob.core.job.plan import node_name
from gpujob.core.machine.driver_pod import driver_pod, driver_pod_name, key_secret_name
from gpujob.core.machine.ports import service_name

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""The API server's rules for names (kubernetes.io, Object Names and IDs)."""

PARTS = st.text("a0-", min_size=1, max_size=12).map(lambda text: f"a{text}0")
JOBS = st.one_of(
    st.lists(PARTS, min_size=1, max_size=12).map(".".join),
    # Differ only where a name that is too long would be cut, or in what a Service cannot have.
    st.tuples(st.just("n" * 44 + "-0"), st.sampled_from([".", "-", "-0-"]), PARTS).map("".join),
).filter(lambda name: len(name) <= NAME_LENGTH_MAX)
ATTEMPTS = st.integers(1, 1000)


def node(name: str) -> GpuNode:
    """A node of this name, with a uid as the API server makes them."""
    return a_node(name=name, uid="5f0c9a4e-7d1b-4c53-9a71-2c40f7f7f6a0")


def test_the_longest_name_lives_through_all_attempts() -> None:
    """A pod whose name did not fit into the status ended every pass from the tenth attempt on."""
    job = "n" * NAME_LENGTH_MAX
    for attempt in (1, 9, 10, 99, 1000):
        name = node_name(job, attempt)
        pod = driver_pod(node_observation(node=node(name), job=a_job(status=RECORDED, name=job)))
        made = pod["metadata"]["name"]
        assert DriverStatus(pod_name=made, pod_uid="p-1").pod_name == driver_pod_name(name)
        assert all(len(label) <= 63 for label in pod["metadata"]["labels"].values())


@given(JOBS, ATTEMPTS)
def test_names_fit(job: str, attempt: int) -> None:
    """As the API server wants them, and within the 63 characters of a label; a Secret has 253."""
    name = node_name(job, attempt)
    pod, service, secret = driver_pod_name(name), service_name(job), key_secret_name(node(name))

    assert SUBDOMAIN.fullmatch(name)
    assert SUBDOMAIN.fullmatch(pod)
    assert SERVICE.fullmatch(service)
    assert SUBDOMAIN.fullmatch(secret)
    assert max(len(name), len(pod), len(service)) <= 63
    assert len(secret) <= 253


@given(st.lists(st.tuples(JOBS, ATTEMPTS), min_size=2, max_size=8, unique=True))
def test_no_two_have_the_same(attempts: list[tuple[str, int]]) -> None:
    """No attempt takes another's driver, and no job another's Service."""
    jobs = {job for job, _ in attempts}

    assert len({driver_pod_name(node_name(*one)) for one in attempts}) == len(attempts)
    assert len({service_name(job) for job in jobs}) == len(jobs)


def test_names_that_fit_stay_as_they_are() -> None:
    """Those that a version before this one has made are found again."""
    assert driver_pod_name(node_name("n" * NAME_LENGTH_MAX, 9)) == "n" * 52 + "-0-9-driver"
    assert driver_pod_name("train.v1-0-1") == "train.v1-0-1-driver"
    assert service_name("n" * NAME_LENGTH_MAX) == "gpujob-" + "n" * 52
