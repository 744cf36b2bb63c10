"""What the provider's rows are read as."""

from typing import Any

import pytest

from gpujob.adapters.vast_wire import Malformed, lease_from, offer_from

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
