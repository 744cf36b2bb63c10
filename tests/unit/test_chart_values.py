"""The schema of the chart's values, which editors show while somebody writes a values file."""

import json
from typing import Any

import chart_values
from gpujob.core.machine.driver_defaults import DriverDefaults
from localcluster.paths import ROOT


def test_each_value_has_its_own_description() -> None:
    """Values of one type must not all show the comment of the last one."""
    text = (ROOT / "helm/gpujob/values.yaml").read_text()
    schema = json.loads(chart_values.values_schema(text))

    def described(path: tuple[str, ...]) -> Any:
        place = schema
        for key in path:
            place = place["properties"][key]
        return place["description"]

    said = chart_values.comments(text)
    assert {path: described(path) for path in said} == said


def test_the_controller_knows_all_that_the_chart_takes_for_drivers() -> None:
    """What it does not know, it would drop without a word."""
    whole = json.loads(chart_values.values_schema((ROOT / "helm/gpujob/values.yaml").read_text()))
    known = DriverDefaults.model_json_schema()

    def fields(schema: Any, definitions: Any, path: str = "") -> set[str]:
        if "$ref" in schema:
            return fields(definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
        found = set().union(*(fields(one, definitions, path) for one in schema.get("anyOf", [])))
        for name, child in schema.get("properties", {}).items():
            found |= {f"{path}.{name}"} | fields(child, definitions, f"{path}.{name}")
        if "items" in schema:
            found |= fields(schema["items"], definitions, f"{path}[]")
        return found

    taken = fields(whole["properties"]["driver"], whole["definitions"])
    assert "driver.affinity" in {f"driver{one}" for one in taken}
    assert len(taken) > 60
    assert {one for one in taken if not one.startswith(".image.") and one != ".image"} == fields(
        known, known["$defs"]
    )
