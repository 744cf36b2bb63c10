"""The CustomResourceDefinitions as files, which people and their tools read."""

import re

import pytest

from gpujob.api.schema import KINDS, Kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_column_is_named_by_one_word(kind: Kind) -> None:
    """`awk` splits the header at spaces, and custom columns take no symbols."""
    names = [column["name"] for column in kind.columns]

    assert [name for name in names if not re.fullmatch("[A-Za-z]+", name)] == []
