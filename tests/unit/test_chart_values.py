"""The schema of the chart's values, which editors show while somebody writes a values file."""

import json
from typing import Any

import chart_values
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
