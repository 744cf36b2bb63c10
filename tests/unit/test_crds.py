"""The CustomResourceDefinitions as files, which people and their tools read."""

import re

import pytest

from gpujob.api.schema import KINDS, Kind
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
