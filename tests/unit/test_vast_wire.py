"""What the provider's rows are read as."""

from typing import Any

import pytest

from gpujob.adapters.vast_wire import lease_from

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
