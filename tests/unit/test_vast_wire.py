"""What the provider's rows are read as."""

from fractions import Fraction
from typing import Any

import pytest

from gpujob.adapters.vast_wire import Malformed, is_local, lease_from, offer_from

ROW = {
    "id": 1,
    "machine_id": 2,
    "actual_status": "running",
    "intended_status": "running",
    "start_date": 1_767_225_600.0,
    "dph_base": 0.4,
    "storage_cost": 0.1,
    "disk_space": 20.0,
}
OFFER = {
    "id": 1,
    "machine_id": 2,
    "host_id": 3,
    "gpu_name": "RTX 4090",
    "num_gpus": 1,
    "gpu_ram": 24564,
    "cpu_cores_effective": 16,
    "cpu_ram": 257800,
    "disk_space": 800,
    "reliability2": 0.99,
    "duration": 1e6,
    "dph_base": 0.4,
    "storage_cost": 0.18,
    "inet_down_cost": 0.002,
    "inet_up_cost": 0.002,
    "inet_down": 900,
    "inet_up": 900,
}
RUDE = "one\r\n\x1b[2J\u202e" + "x" * 10_000


@pytest.mark.parametrize(
    ("marks", "attributable"),
    [
        pytest.param({"label": "mine", "extra_env": None}, True, id="a label"),
        pytest.param({"label": None, "extra_env": []}, True, id="an environment without our entry"),
        pytest.param({"label": None, "extra_env": {"A": "b"}}, True, id="a mapping"),
        pytest.param({"label": None, "extra_env": None}, False, id="neither"),
        pytest.param({"extra_env": None}, False, id="not even a key"),
        pytest.param({}, False, id="nothing"),
        pytest.param({"label": None, "extra_env": "A=b"}, False, id="unreadable"),
        pytest.param({"label": 7, "extra_env": [["A"]]}, False, id="both unreadable"),
    ],
)
def test_a_row_without_readable_marks_may_be_anyones(
    marks: dict[str, Any], attributable: bool
) -> None:
    """Nothing may be concluded from the absence of a mark that could not have been read."""
    assert lease_from(ROW | marks, str).is_attributable is attributable


def test_what_a_machine_is_said_to_do_can_be_shown() -> None:
    """One line without control characters, not too long: it ends on people's terminals."""
    lease = lease_from(ROW | {"status_msg": RUDE, "actual_status": RUDE}, str)

    assert lease.status_message == "one \ufffd[2J\ufffd" + "x" * 291
    assert lease.status == "one \ufffd[2J\ufffd" + "x" * 55


def test_a_machine_may_say_nothing() -> None:
    """Neither what it does nor why."""
    lease = lease_from(ROW | {"status_msg": None, "actual_status": None}, str)

    assert (lease.status_message, lease.status) == ("", None)


def test_where_a_machine_stands_can_be_shown() -> None:
    """The country is read before anything is cut off."""
    offer = offer_from(OFFER | {"geolocation": f"{RUDE}, CA"})

    assert offer.location == "one \ufffd[2J\ufffd" + "x" * 91
    assert offer.country == "CA"


@pytest.mark.parametrize("name", [RUDE, "RTX\x07 4090", "", " ", None, 3])
def test_an_offer_of_a_gpu_whose_name_can_not_be_shown_is_left_out(name: object) -> None:
    """Cut to what can be shown it would be another model's name."""
    with pytest.raises(Malformed, match="gpu_name"):
        offer_from(OFFER | {"gpu_name": name})


PORTS = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}]}
PLACES = {"public_ipaddr": " 8.8.4.4 \n", "ports": PORTS} | {
    "ssh_host": "ssh7.vast.ai",
    "ssh_port": 37044,
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param({}, ["8.8.4.4:40022", "ssh7.vast.ai:37044"], id="directly first"),
        pytest.param({"ports": {}}, ["ssh7.vast.ai:37044"], id="no direct port"),
        pytest.param({"ports": None}, ["ssh7.vast.ai:37044"], id="ports are null"),
        pytest.param({"ports": {"22/tcp": None}}, ["ssh7.vast.ai:37044"], id="the port is null"),
        pytest.param({"ports": {"22/tcp": []}}, ["ssh7.vast.ai:37044"], id="mapped to nothing"),
        pytest.param({"ssh_host": None}, ["8.8.4.4:40022"], id="no proxy"),
        pytest.param({"ssh_host": "null"}, ["8.8.4.4:40022"], id="null as a word"),
        pytest.param({"ssh_host": ""}, ["8.8.4.4:40022"], id="empty"),
        pytest.param({"ssh_port": None}, ["8.8.4.4:40022"], id="no port of the proxy"),
        pytest.param({"ssh_port": 0}, ["8.8.4.4:40022"], id="port 0"),
        pytest.param({"ssh_port": 65536}, ["8.8.4.4:40022"], id="port 65536"),
        pytest.param({"ssh_port": True}, ["8.8.4.4:40022"], id="a truth value"),
        pytest.param({"ssh_port": "٢٢"}, ["8.8.4.4:40022"], id="digits of others"),
        pytest.param({"ssh_port": "37044"}, ["8.8.4.4:40022", "ssh7.vast.ai:37044"], id="text"),
        pytest.param({"public_ipaddr": "127.0.0.1"}, ["ssh7.vast.ai:37044"], id="loopback"),
        pytest.param({"public_ipaddr": "10.0.0.7"}, ["ssh7.vast.ai:37044"], id="private"),
        pytest.param({"public_ipaddr": "169.254.169.254"}, ["ssh7.vast.ai:37044"], id="metadata"),
        pytest.param({"public_ipaddr": "0.0.0.0"}, ["ssh7.vast.ai:37044"], id="any"),
        pytest.param({"public_ipaddr": "224.0.0.1"}, ["ssh7.vast.ai:37044"], id="multicast"),
        pytest.param({"public_ipaddr": "2130706433"}, ["ssh7.vast.ai:37044"], id="a number"),
        pytest.param({"public_ipaddr": "127.1"}, ["ssh7.vast.ai:37044"], id="a short form"),
        pytest.param({"public_ipaddr": ["8.8.4.4"]}, ["ssh7.vast.ai:37044"], id="a list"),
        pytest.param({"ssh_host": "localhost"}, ["8.8.4.4:40022"], id="a name for loopback"),
        pytest.param({"ssh_host": "a.default.svc"}, ["8.8.4.4:40022"], id="in our own cluster"),
        pytest.param({"ssh_host": "kubernetes"}, ["8.8.4.4:40022"], id="a name without a domain"),
        pytest.param({"ssh_host": "x y.example"}, ["8.8.4.4:40022"], id="no name at all"),
        pytest.param(
            {"ssh_host": "8.8.4.4", "ssh_port": 40022}, ["8.8.4.4:40022"], id="the same twice"
        ),
        pytest.param({"ports": None, "ssh_host": None}, [], id="none"),
    ],
)
def test_only_what_may_be_an_address_is_one(changes: dict[str, Any], found: list[str]) -> None:
    """The direct one comes first; a driver is sent nowhere inside of our own network."""
    lease = lease_from(ROW | PLACES | changes, str)

    assert [f"{host}:{port}" for host, port in lease.addresses] == found


def test_a_provider_nearby_has_its_machines_nearby() -> None:
    """As the simulator has; a public one has not."""
    near = {"public_ipaddr": "127.0.0.1", "ssh_host": "vastsim.vastsim.svc.cluster.local"}
    row = ROW | PLACES | near

    assert len(lease_from(row, str, is_local=True).addresses) == 2
    assert lease_from(row, str).addresses == ()
    near_by = ("127.0.0.1", "[::1]", "10.1.2.3", "vastsim", "vastsim.vastsim.svc.cluster.local")
    assert all(is_local(f"http://{host}:8000") for host in near_by)
    assert not is_local("https://console.vast.ai")
    assert not is_local("https://8.8.4.4")


@pytest.mark.parametrize("field", ["inet_down", "inet_up", "dph_base", "cpu_ram", "cpu_cores"])
@pytest.mark.parametrize(
    "figure",
    [
        *(-1, float("nan"), float("inf"), "NaN", "many", True, [], {}),
        *(1e308, 5e-324, "1e999999999", "1e-999999999", 10**400, "9" * 5000),
    ],
)
def test_a_figure_that_no_machine_has_leaves_its_offer_out(field: str, figure: object) -> None:
    """Some would take all memory as exact fractions, and others fail in each sum and message."""
    with pytest.raises(Malformed, match=field) as refused:
        offer_from(OFFER | {field: figure})

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("field", "number"),
    [("num_gpus", 0), ("id", 2**63), ("machine_id", 10**30), ("host_id", -1)],
)
def test_a_number_that_no_status_holds_leaves_its_offer_out(field: str, number: int) -> None:
    """Prices are divided by the number of GPUs, and the others are stored before the rent."""
    with pytest.raises(Malformed, match=field):
        offer_from(OFFER | {field: number})


@pytest.mark.parametrize(
    ("prices", "usd"),
    [
        ({"gpuCostPerHour": 0, "totalHour": 0.0125}, Fraction("0.0125")),
        ({"gpuCostPerHour": 0.0, "totalHour": 0}, Fraction(0)),
        ({"gpuCostPerHour": 0.4, "totalHour": 0.41}, None),
        ({"gpuCostPerHour": 0}, None),
        ({"totalHour": 0.0125}, None),
        ({"gpuCostPerHour": 0, "totalHour": -1}, None),
        ({"gpuCostPerHour": 0, "totalHour": "many"}, None),
        ("cheap", None),
        (None, None),
    ],
)
def test_the_price_of_a_machine_that_does_not_run(prices: object, usd: Fraction | None) -> None:
    """Only one whose GPUs cost nothing now has it."""
    assert lease_from(ROW | {"instance": prices}, str).stopped_usd_per_hour == usd
