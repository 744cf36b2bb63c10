"""From a Service's port to the driver's, and on to the workload's."""

import pytest
from tests.authority import driver_variables
from tests.builders import RECORDED, a_job, a_spec, node_observation

from gpujob.core.machine.driver_pod import driver_pod
from gpujob.core.machine.ports import service, service_name
from gpujob.driver.settings import DriverSettings, DriverSettingsError

PORTS = [{"name": "http", "port": 80}, {"name": "metrics", "port": 9090}]


def test_each_port_leads_to_the_workload_s_own_number() -> None:
    """The driver may listen on 80 as little as on a port of another's."""
    job = a_job(a_spec(ports=PORTS), RECORDED)
    pod = driver_pod(node_observation(job=job))
    (container,) = pod["spec"]["containers"]
    made = service(job, {})
    listened = {one["name"]: one["containerPort"] for one in container["ports"]}
    (told,) = (one["value"] for one in container["env"] if one["name"] == "GPUJOB_PORTS")
    settings = DriverSettings.from_environment(driver_variables() | {"GPUJOB_PORTS": told})

    asked = {one["port"]: listened[one["targetPort"]] for one in made["spec"]["ports"]}
    assert {port: settings.ports[ours] for port, ours in asked.items()} == {80: 80, 9090: 9090}
    assert min(listened.values()) >= 1024
    assert not any("hostPort" in one for one in container["ports"])
    labels = pod["metadata"]["labels"]
    assert made["spec"]["selector"].items() <= labels.items()
    (owner,) = made["metadata"]["ownerReferences"]
    assert owner["uid"] == job.metadata.uid


def test_without_ports_nothing_listens() -> None:
    """The pod says so."""
    pod = driver_pod(node_observation(job=a_job(a_spec(), RECORDED)))

    assert "ports" not in pod["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["a" * 52, "0.1.2", "train"])
def test_a_service_s_name_is_one_that_services_may_have(name: str) -> None:
    """It begins with a letter, has no dots, and is no longer than 63."""
    made = service_name(name)

    assert made[0].isalpha()
    assert "." not in made
    assert len(made) <= 63


@pytest.mark.parametrize("text", ["80", "a:b", "1:2:3", "1:2,x"])
def test_ports_that_are_not_understood_are_named(text: str) -> None:
    """The variable is in the error."""
    with pytest.raises(DriverSettingsError, match="GPUJOB_PORTS"):
        DriverSettings.from_environment(driver_variables() | {"GPUJOB_PORTS": text})
