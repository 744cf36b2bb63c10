"""What NetworkPolicies mean, by the words of their API: who may connect to whom.

No network is asked: the local cluster's has none that enforces them.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A pod, or with no namespace an address outside of all pods."""

    address: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    """By name."""


def may_connect(
    policies: Iterable[Object], source: Place, target: Place, port: int, protocol: str = "TCP"
) -> bool:
    """Returns whether a connection is let out at its source and in at its target."""
    policies = tuple(policies)
    return _passes(policies, "Egress", source, target, target, port, protocol) and _passes(
        policies, "Ingress", target, source, target, port, protocol
    )


def _passes(
    policies: tuple[Object, ...],
    direction: str,
    held: Place,
    other: Place,
    target: Place,
    port: int,
    protocol: str,
) -> bool:
    holding = [
        policy["spec"]
        for policy in policies
        if held.namespace == policy["metadata"]["namespace"]
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], held.labels)
    ]
    if not holding:
        return True
    peers = "to" if direction == "Egress" else "from"
    rules = [rule for spec in holding for rule in spec.get(direction.lower()) or []]
    # A rule without peers, or without ports, is for all of them.
    return any(
        (not rule.get(peers) or any(_is(peer, held.namespace, other) for peer in rule[peers]))
        and (
            not rule.get("ports")
            or any(_fits(one, target, port, protocol) for one in rule["ports"])
        )
        for rule in rules
    )


def _is(peer: Object, namespace: str, other: Place) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(other.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(one) for one in block.get("except", [])
        )
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        of_namespace = {"kubernetes.io/metadata.name": other.namespace}
        if not _selects(peer["namespaceSelector"], of_namespace):
            return False
    elif other.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    terms = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in terms), "no policy of the chart needs more"
    is_in = all(labels.get(one["key"]) in one["values"] for one in terms)
    return is_in and wanted.items() <= labels.items()


def _fits(one: Object, target: Place, port: int, protocol: str) -> bool:
    if one.get("protocol", "TCP") != protocol:
        return False
    first = one["port"]
    if isinstance(first, str):
        return target.ports.get(first) == port
    last = one.get("endPort") or first
    return bool(first <= port <= last)
