"""GpuBudgets as administrators write them: what is refused, and by which words."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from gpujob.api.gpubudget import (
    HISTORY_DAYS,
    PERIODS_MAX,
    RESERVATIONS_MAX,
    SLICES_MAX,
    BudgetReservation,
    GpuBudget,
    GpuBudgetSpec,
    GpuBudgetStatus,
    PeriodSpend,
    SliceSpend,
)
from gpujob.api.gpujob import ATTEMPTS_MAX
from gpujob.api.meta import Condition
from gpujob.api.schema import GPUBUDGET, custom_resource_definition

STORED_BYTES_MAX = 2**20
"""Less than the 1.5 MiB that etcd takes, with room for metadata."""
MICROSECOND = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def a_spec(**changes: Any) -> dict[str, Any]:
    """What most administrators write."""
    return {"limit": "500", "period": "Month", "timeZone": "Europe/Berlin"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"limit": "999999.999999"},
        {"timeZone": "America/Argentina/Buenos_Aires"},
        {"timeZone": "Etc/GMT+5"},
        {"period": "Rolling", "rollingHours": 2160},
        {"selector": {"matchLabels": {"team": "vision"}}},
        {"selector": {"matchExpressions": [{"key": "a.b/c", "operator": "Exists"}]}},
    ],
    ids=str,
)
def test_what_is_right_is_read(changes: dict[str, Any]) -> None:
    """And comes back as it was written."""
    spec = a_spec(**changes)

    read = GpuBudgetSpec.model_validate(spec).wire()

    assert {key: read[key] for key in spec if key != "selector"} == {
        key: value for key, value in spec.items() if key != "selector"
    }
    assert GpuBudgetSpec.model_validate(read) == GpuBudgetSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"limit": None}, "limit"),
        ({"limit": 500}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": "1000000"}, "limit"),
        ({"limit": "0.0000001"}, "limit"),
        ({"period": "Year"}, "period"),
        ({"period": "month"}, "period"),
        ({"timeZone": ""}, "timeZone"),
        ({"timeZone": "../etc/passwd"}, "timeZone"),
        ({"timeZone": "/Europe/Berlin"}, "timeZone"),
        ({"timeZone": "E" * 65}, "timeZone"),
        ({"period": "Rolling"}, ""),
        ({"rollingHours": 24}, ""),
        ({"period": "Rolling", "rollingHours": 0}, "rollingHours"),
        ({"period": "Rolling", "rollingHours": 2161}, "rollingHours"),
        ({"selector": {"matchLabels": {"a": "not a value"}}}, "selector.matchLabels.a"),
        ({"selector": {"matchLabels": {str(n): "x" for n in range(17)}}}, "selector.matchLabels"),
        # No label has such a key: the budget would cover no job, and nobody would see it.
        *(
            ({"selector": {"matchLabels": {key: "x"}}}, "selector.matchLabels")
            for key in ("", "not a key", "a/", "/a", "a/b/c", "Team/a", "k" * 64, "team\n")
        ),
        (
            {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "selector.matchExpressions.0",
        ),
        (
            {
                "selector": {
                    "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]
                }
            },
            "selector.matchExpressions.0",
        ),
        (
            {"selector": {"matchExpressions": [{"key": "a/", "operator": "Exists"}]}},
            "selector.matchExpressions.0.key",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused(changes: dict[str, Any], where: str) -> None:
    """With the place."""
    with pytest.raises(ValidationError) as refused:
        GpuBudgetSpec.model_validate(a_spec(**changes))

    assert [".".join(map(str, one["loc"])) for one in refused.value.errors()] == [where]


def test_the_api_server_refuses_the_same() -> None:
    """By the schema, and by rules where a schema cannot say it."""
    (version,) = custom_resource_definition(GPUBUDGET)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields = spec["properties"]
    rules = {
        name: [rule["rule"] for rule in one.get("x-kubernetes-validations", ())]
        for name, one in {"spec": spec, **fields}.items()
    }

    assert spec["required"] == ["limit", "period"]
    assert fields["period"]["enum"] == ["Day", "Week", "Month", "Rolling"]
    assert fields["rollingHours"]["maximum"] == 24 * HISTORY_DAYS
    assert fields["timeZone"]["default"] == "UTC"
    assert "has(self.rollingHours) == (self.period == 'Rolling')" in rules["spec"]
    assert rules["limit"] == ["double(self) > 0.0"]
    for fixed in ("period", "timeZone", "selector"):
        assert rules[fixed] == ["self == oldSelf"]
        # A rule on a change is skipped where a field is set or unset, so it always has a value.
        assert fixed in spec["required"] or "default" in fields[fixed]


def test_every_field_of_a_spec_has_an_example() -> None:
    """`kubectl explain` shows it."""
    (version,) = custom_resource_definition(GPUBUDGET)["spec"]["versions"]
    silent = []

    def look(schema: dict[str, Any], path: str) -> None:
        for name, child in schema.get("properties", {}).items():
            inner = child.get("items", child)
            if "properties" not in inner and " Example: " not in child["description"]:
                silent.append(f"{path}.{name}")
            look(inner, f"{path}.{name}")

    look(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")

    assert silent == []


def full(text: int, name: int, amount: str) -> GpuBudget:
    """A budget that holds as much as it can, with texts of these lengths."""
    entry = BudgetReservation(
        node_uid="u" * text,
        node_name="n" * name,
        job_uid="j" * text,
        attempt=ATTEMPTS_MAX,
        reserved_usd=amount,
        since=MICROSECOND,
    )
    period = PeriodSpend(start=MICROSECOND, end=MICROSECOND, spent_usd=amount, carried_usd=amount)
    condition = Condition(
        type="T" * 64,
        status="Unknown",
        reason="R" * 64,
        message="m" * 4096,
        last_transition_time=MICROSECOND,
    )
    status = GpuBudgetStatus(
        phase="p" * 32,
        conditions=(condition,) * 16,
        opened_at=MICROSECOND,
        spent_usd=amount,
        reserved_usd=amount,
        available_usd=amount,
        open=RESERVATIONS_MAX,
        period_end=MICROSECOND,
        runs_out_at=MICROSECOND,
        reservations=(entry,) * RESERVATIONS_MAX,
        history=(period,) * PERIODS_MAX,
        window=(SliceSpend(start=MICROSECOND, spent_usd=amount),) * SLICES_MAX,
    )
    labels = {f"{'p' * 253}/{number:063}": "v" * 63 for number in range(16)}
    terms = [{"key": f"{'p' * 253}/{'k' * 63}", "operator": "In", "values": ["v" * 63] * 16}] * 16
    spec = a_spec(selector={"matchLabels": labels, "matchExpressions": terms})
    meta = {
        "name": "b" * 253,
        "namespace": "n" * 63,
        "uid": "u" * 36,
        "resourceVersion": "9" * 20,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return GpuBudget.model_validate({"metadata": meta, "spec": spec, "status": status.wire()})


@pytest.mark.parametrize(
    ("text", "name", "amount", "bytes_max"),
    [
        # As they are: UIDs have 36 characters, amounts at most 13.
        (36, 63, "999999.999999", 680_000),
        # As long as the schema lets them be.
        (64, 63, "9" * 24, 850_000),
    ],
)
def test_a_full_budget_can_be_stored(text: int, name: int, amount: str, bytes_max: int) -> None:
    """With 2,000 reservations, and all else at its longest."""
    stored = len(json.dumps(full(text, name, amount).wire()).encode())

    assert 0.9 * bytes_max < stored <= bytes_max < STORED_BYTES_MAX


def test_one_more_reservation_cannot_be_stored() -> None:
    """Neither by the model nor by the API server."""
    held = full(36, 63, "1.000000").status
    (version,) = custom_resource_definition(GPUBUDGET)["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]

    with pytest.raises(ValidationError, match="at most 2000 items"):
        GpuBudgetStatus.model_validate(
            held.wire() | {"reservations": [held.reservations[0].wire()] * (RESERVATIONS_MAX + 1)}
        )
    assert status["reservations"]["maxItems"] == RESERVATIONS_MAX
    # As a map, the API server would note in `managedFields` who owns each of them.
    assert status["reservations"]["x-kubernetes-list-type"] == "atomic"
