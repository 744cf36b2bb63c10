"""The CustomResourceDefinitions as files, which people and their tools read."""

import json
import re
from typing import Any

import pytest

from gpujob.api.schema import GPUJOB, KINDS, Kind, custom_resource_definition
from localcluster.paths import ROOT


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("folder", ["crds", "helm/gpujob/templates/crds"])
def test_nothing_is_an_anchor_or_an_alias(kind: Kind, folder: str) -> None:
    """No other generator writes them, and a reader would have to look them up."""
    text = (ROOT / folder / f"{kind.plural}.yaml").read_text()

    assert re.findall(r"(?m)^.*[:-] [&*]\w+$", text) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_column_is_named_by_one_word(kind: Kind) -> None:
    """`awk` splits the header at spaces, and custom columns take no symbols."""
    names = [column["name"] for column in kind.columns]

    assert [name for name in names if not re.fullmatch("[A-Za-z]+", name)] == []


def test_kubectl_explain_tells_each_default() -> None:
    """It prints the description of a field, but not its default."""
    silent = []

    def look(schema: dict[str, Any], path: str) -> None:
        for name, child in schema.get("properties", {}).items():
            where, default = f"{path}.{name}", child.get("default")
            told = f" Default: {json.dumps(default)}. "
            if default not in (None, [], {}) and told not in child["description"]:
                silent.append(where)
            look(child, where)
            look(child.get("items", {}), f"{where}[]")

    (version,) = custom_resource_definition(GPUJOB)["spec"]["versions"]
    look(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")

    assert silent == []
