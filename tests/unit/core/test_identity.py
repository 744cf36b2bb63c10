"""Which machines are an installation's own: that never changes while some may run."""

from typing import Any

import pytest

from gpujob.core.identity import (
    Kept,
    identity_before,
    is_changed,
    left_out,
    may_begin,
    served_all_before,
)

HERE, ELSEWHERE = "uid-of-the-namespace", "uid-of-another"


@pytest.mark.parametrize(
    ("given", "kept", "identity"),
    [
        pytest.param("", None, None, id="a first start needs one"),
        pytest.param("", Kept("first", HERE), "first", id="what was used once stays"),
        pytest.param("", Kept("first", ELSEWHERE), None, id="a backup brings none elsewhere"),
        pytest.param("", Kept("a/b", HERE), None, id="nor does what no mark can carry count"),
        pytest.param("", Kept("", HERE), None, id="nor what is empty"),
        pytest.param("mine", Kept("first", HERE), "mine", id="an administrator has the last word"),
    ],
)
def test_an_identity_stays(given: str, kept: Kept | None, identity: str | None) -> None:
    """With the release, and not with a copy of what it has stored."""
    assert identity_before(given=given, kept=kept, place=HERE) == identity


@pytest.mark.parametrize(
    ("status", "begins"),
    [
        pytest.param({}, True, id="nothing was rented"),
        pytest.param({"rent": {}}, False, id="something may have been"),
        pytest.param({"rent": {}, "releasedAt": "now"}, True, id="it is proved gone"),
    ],
)
def test_no_new_identity_while_machines_may_run(status: dict[str, Any], begins: bool) -> None:
    """Under it they would count as gone."""
    assert may_begin([{}, {"status": status}]) is begins


@pytest.mark.parametrize(
    ("lease", "served_all"),
    [
        pytest.param(None, False, id="nothing led"),
        pytest.param({"metadata": {}}, True, id="a version that says nothing"),
        pytest.param({"metadata": {"annotations": {"other": ""}}}, True, id="nor in another way"),
        pytest.param({"metadata": {"annotations": {"served": ""}}}, False, id="one that says all"),
        pytest.param({"metadata": {"annotations": {"served": "a"}}}, False, id="one that says a"),
    ],
)
def test_a_version_that_kept_no_identity_is_known_by_its_lease(
    lease: dict[str, Any] | None, served_all: bool
) -> None:
    """Its machines in all namespaces are the release's."""
    assert served_all_before(lease, annotation="served") is served_all


@pytest.mark.parametrize(
    ("given", "kept", "changed"),
    [
        pytest.param("", "first", False, id="nothing is set"),
        pytest.param("first", "first", False, id="what is in use is set"),
        pytest.param("other", "first", True, id="another one is set"),
        pytest.param("other", None, False, id="none was in use"),
    ],
)
def test_a_change_of_the_identity_is_noticed(given: str, kept: str | None, changed: bool) -> None:
    """It is one only for machines that have the one before."""
    assert is_changed(Kept(kept, HERE) if kept else None, given=given) is changed


@pytest.mark.parametrize(
    ("before", "now", "left"),
    [
        pytest.param(None, ("a",), (), id="not known, or confirmed"),
        pytest.param((), (), (), id="all as before"),
        pytest.param((), ("a",), ("",), id="all was narrowed"),
        pytest.param(("a", "b"), ("b", "a"), (), id="the same ones"),
        pytest.param(("a", "b"), ("a",), ("b",), id="one was taken out"),
        pytest.param(("a", "b"), ("c",), ("a", "b"), id="both were replaced"),
        pytest.param(("a",), ("a", "b"), (), id="one was added"),
        pytest.param(("a",), (), (), id="widened to all"),
    ],
)
def test_what_is_no_longer_served_is_known(
    before: tuple[str, ...] | None, now: tuple[str, ...], left: tuple[str, ...]
) -> None:
    """There, machines would be without a GpuNode that anybody sees."""
    assert left_out(Kept("first", HERE, before), served=now) == left
    assert left_out(None, served=now) == ()
