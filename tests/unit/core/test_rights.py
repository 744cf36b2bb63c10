"""Which rights are found missing."""

from typing import Any

import pytest

from gpujob.core.rights import Rights, missing

PODS = Rights("", "pods", ("get", "create"))
STATUS = Rights("gpujob.dev", "gpunodes/status", ("update",))
LOCK = Rights("coordination.k8s.io", "leases", ("get",), "gpujob")


def rule(groups: list[str], resources: list[str], verbs: list[str], *names: str) -> dict[str, Any]:
    """A rule of a SelfSubjectRulesReview."""
    found: dict[str, Any] = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return found | ({"resourceNames": list(names)} if names else {})


@pytest.mark.parametrize(
    ("right", "rules", "lacking"),
    [
        (PODS, [], ("get pods", "create pods")),
        (PODS, [rule([""], ["pods"], ["get"])], ("create pods",)),
        (PODS, [rule([""], ["pods"], ["get"]), rule([""], ["pods"], ["create"])], ()),
        (PODS, [rule(["*"], ["*"], ["*"])], ()),
        (PODS, [rule(["apps"], ["pods"], ["*"])], ("get pods", "create pods")),
        (PODS, [rule([""], ["pods"], ["*"], "one")], ("get pods", "create pods")),
        (STATUS, [rule(["gpujob.dev"], ["gpunodes"], ["update"])], ("update gpunodes/status",)),
        (STATUS, [rule(["gpujob.dev"], ["*/status"], ["update"])], ()),
        (LOCK, [rule(["coordination.k8s.io"], ["leases"], ["get"], "gpujob", "x")], ()),
        (LOCK, [rule(["coordination.k8s.io"], ["leases"], ["get"])], ()),
        (
            LOCK,
            [rule(["coordination.k8s.io"], ["leases"], ["get"], "x")],
            ("get leases gpujob",),
        ),
    ],
)
def test_missing_rights(
    right: Rights, rules: list[dict[str, Any]], lacking: tuple[str, ...]
) -> None:
    """By verb, group, resource with its part, and name."""
    assert missing([right], rules) == lacking
