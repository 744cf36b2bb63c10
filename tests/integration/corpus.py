"""Manifests that are wrong, each in one way that its name tells."""

import copy
from dataclasses import dataclass
from typing import Any

from tests.integration.parts import Object

GOOD: Object = {
    "image": "python:3.11",
    "command": ["python3"],
    "activeDeadlineSeconds": 60,
    "cost": {"ceiling": "1.00"},
}
GONE = object()
"""In place of a value: the field is left out."""

Path = tuple[str, ...]


@dataclass(frozen=True)
class Wrong:
    """One manifest, and whether what is wrong with it touches money or security."""

    name: str
    manifest: Object
    matters: bool


def _with(field: str, value: Any) -> Object:
    """Returns a good manifest with one field of it changed; `spec.` stands before all but names."""
    made = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": "job"},
        "spec": copy.deepcopy(GOOD),
    }
    *path, last = (field if field.startswith("metadata") else f"spec.{field}").split(".")
    holder: Any = made
    for key in path:
        holder = holder.setdefault(key, {})
    if value is GONE:
        holder.pop(last)
    else:
        holder[last] = value
    return made


SECRET = {"name": "s", "key": "k"}
RULE = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}

MONEY: dict[str, Any] = {
    "a number": 1.5,
    "an integer": 2,
    "empty": "",
    "zero": "0",
    "zero cents": "0.00",
    "zero millionths": "0.000000",
    "negative": "-1",
    "negative zero": "-0",
    "a plus": "+1",
    "a space before": " 1",
    "a space after": "1 ",
    "a line break after": "1\n",
    "an exponent": "1e3",
    "a large exponent": "1E30",
    "hexadecimal": "0x10",
    "an underscore": "1_000",
    "a comma": "2,50",
    "thousands": "1,000.00",
    "a currency": "$2.50",
    "a currency behind": "2.50USD",
    "a quantity suffix": "2k",
    "a binary suffix": "2Ki",
    "a milli suffix": "2500m",
    "no leading digit": ".5",
    "no trailing digit": "1.",
    "a leading zero": "01",
    "seven decimals": "1.0000001",
    "seven digits": "1000000",
    "20 digits": "12345678901234567890",
    "NaN": "NaN",
    "infinity": "Infinity",
    "full-width digits": "\uff11",
    "Arabic digits": "\u0662",
    "a shell's": "$(echo 9)",
    "null": None,
    "a list": ["1"],
    "a map": {"usd": "1"},
}

SHARES: dict[str, Any] = {
    "low": "0.5",
    "just too low": "0.949999",
    "more than can be met": "0.995",
    "just too high": "0.970001",
    "certain": "1",
    "certain in full": "1.000000",
    "beyond": "1.1",
    "a per cent": "95%",
    "a hundred": "95",
    "negative": "-0.95",
    "a number": 0.95,
    "NaN": "NaN",
    "an exponent": "9.5e-1",
}

IMAGES: dict[str, Any] = {
    "missing": GONE,
    "empty": "",
    "a number": 3,
    "a space": "python 3.11",
    "a line break": "python\n3.11",
    "upper case": "Python:3.11",
    "an empty tag": "python:",
    "two tags": "python:3:11",
    "a scheme": "https://ghcr.io/a/b",
    "an empty component": "ghcr.io//b",
    "an option": "--privileged",
    "a substitution": "$(reboot)",
    "back-quotes": "`reboot`",
    "a second command": "python;reboot",
    "a pipe": "python|sh",
    "quotes": "python'--'",
    "a NUL": "python\0",
    "a short digest": "python@sha256:abc",
    "another digest": "python@md5:00000000000000000000000000000000",
    "a bare digest": "0" * 64,
    "a path upward": "../../etc/passwd",
    "unicode": "pythön",
    "too long": "a" * 1025,
}

MODELS: dict[str, Any] = {
    "unknown": ["RTX 4091"],
    "an open series": ["RTX 6000"],
    "an open memory": ["A100"],
    "one unknown of two": ["RTX 4090", "Voodoo 2"],
    "empty": [""],
    "a line break": ["RTX 4090\n"],
    "a homoglyph": ["RTX 4\u041090"],
    "a query": ['RTX 4090"}, "rented": {"eq": true}, "x": {"eq": "'],
    "a text": "RTX 4090",
    "numbers": [4090],
    "33": ["RTX 4090"] * 33,
    "65 signs": ["R" * 65],
}

VARIABLES: dict[str, Any] = {
    "a line break in its name": [{"name": "A\nB", "value": "1"}],
    "an equals sign in its name": [{"name": "A=B", "value": "1"}],
    "a space in its name": [{"name": "A B", "value": "1"}],
    "a substitution in its name": [{"name": "$(id)", "value": "1"}],
    "a digit before its name": [{"name": "1A", "value": "1"}],
    "unicode in its name": [{"name": "Ä", "value": "1"}],
    "no name": [{"value": "1"}],
    "an empty name": [{"name": "", "value": "1"}],
    "a name of 129 signs": [{"name": "A" * 129, "value": "1"}],
    "a number": [{"name": "A", "value": 1}],
    "a NUL in its value": [{"name": "A", "value": "a\0b"}],
    "a value of 33 kB": [{"name": "A", "value": "x" * 32_769}],
    "value and valueFrom": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": SECRET}}],
    "no source": [{"name": "A", "valueFrom": {}}],
    "two sources": [
        {"name": "A", "valueFrom": {"secretKeyRef": SECRET, "configMapKeyRef": SECRET}}
    ],
    "a source without key": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
    "a source without name": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}],
    "a field of the pod": [
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    ],
    "the same name twice": [{"name": "A"}, {"name": "A"}],
    "257 of them": [{"name": f"A{number}", "value": "1"} for number in range(257)],
    "a map": {"A": "1"},
}

PROGRAMS: dict[str, Any] = {
    "missing": GONE,
    "empty": [],
    "no name": [""],
    "a text": "python3",
    "a NUL": ["python3", "a\0b"],
    "numbers": [1],
    "65 words": ["x"] * 65,
    "a word of 17 kB": ["x" * 16_385],
}

TABLE: dict[str, tuple[bool, dict[str, Any]]] = {
    "cost": (True, {"missing": GONE, "empty": {}, "a text": "1.00", "null": None}),
    "cost.ceiling": (True, {"missing": GONE, **MONEY}),
    "cost.confidence": (True, SHARES),
    "cost.budget": (True, {"an unknown field": "1"}),
    "market.maxUSDPerHour": (
        True,
        {name: MONEY[name] for name in ("zero", "negative", "NaN", "an exponent", "a number")},
    ),
    "market.minReliability": (True, {"beyond": "1.5", "negative": "-1", "a number": 1}),
    "market.type": (True, {"unknown": "Spot", "lower case": "interruptible", "empty": ""}),
    "market.hosts": (True, {"unknown": "Friends", "empty": "", "a list": ["Any"]}),
    "market.regions": (
        True,
        {
            "in words": ["Canada"],
            "lower case": ["ca"],
            "three letters": ["CAN"],
            "digits": ["12"],
            "a query": ['"}'],
            "65 of them": ["CA"] * 65,
            "a text": "CA",
        },
    ),
    "market.excludedMachines": (
        True,
        {"a text": ["1"], "zero": [0], "2 to the 53rd": [2**53], "257 of them": [1] * 257},
    ),
    "activeDeadlineSeconds": (
        True,
        {"zero": 0, "negative": -1, "a text": "60", "half": 0.5, "over a year": 31_536_001},
    ),
    "maxRents": (True, {"zero": 0, "101": 101, "a text": "1"}),
    "backoffLimit": (True, {"negative": -1, "101": 101, "a text": "1"}),
    "ttlSecondsAfterFinished": (False, {"negative": -1, "over a year": 31_536_001, "a text": "1"}),
    "suspend": (True, {"a text": "true", "a number": 1}),
    "data.maxDownloadGB": (True, {"negative": -1, "too much": 100_001, "a suffix": "20Gi"}),
    "data.inputs": (
        True,
        {
            "no claim": [{"path": "in"}],
            "no path": [{"claimName": "c"}],
            "an empty path": [{"claimName": "c", "path": ""}],
            "the root": [{"claimName": "c", "path": "/"}],
            "a way out": [{"claimName": "c", "path": "../in"}],
            "two slashes": [{"claimName": "c", "path": "a//b"}],
            "a line break": [{"claimName": "c", "path": "a\nb"}],
            "a way out of the claim": [{"claimName": "c", "subPath": "../x", "path": "in"}],
            "an absolute subPath": [{"claimName": "c", "subPath": "/x", "path": "in"}],
            "two to one folder": [
                {"claimName": "c", "path": "in"},
                {"claimName": "d", "path": "in"},
            ],
            "nine": [{"claimName": "c", "path": f"in{number}"} for number in range(9)],
        },
    ),
    "data.checkpoint": (
        True,
        {
            "too often": {"claimName": "c", "path": "state", "intervalSeconds": 1},
            "no path": {"claimName": "c"},
        },
    ),
    "data.log": (False, {"no claim": {}, "a name": "claim"}),
    "data.drainSeconds": (True, {"none": 0, "negative": -1, "too long": 86_401, "a text": "60"}),
    "ports": (
        True,
        {
            "no name": [{"port": 80}],
            "no port": [{"name": "http"}],
            "zero": [{"name": "http", "port": 0}],
            "65536": [{"name": "http", "port": 65_536}],
            "negative": [{"name": "http", "port": -80}],
            "a text": [{"name": "http", "port": "80"}],
            "a range": [{"name": "http", "port": "8000-8010"}],
            "upper case": [{"name": "HTTP", "port": 80}],
            "no letter": [{"name": "80", "port": 80}],
            "two hyphens": [{"name": "a--b", "port": 80}],
            "16 signs": [{"name": "a" * 16, "port": 80}],
            "a line break": [{"name": "http\n", "port": 80}],
            "a port of the node": [{"name": "http", "port": 80, "hostPort": 80}],
            "one name twice": [{"name": "http", "port": 80}, {"name": "http", "port": 81}],
            "one port twice": [{"name": "http", "port": 80}, {"name": "web", "port": 80}],
            "17 of them": [{"name": f"p{at}", "port": 8000 + at} for at in range(17)],
        },
    ),
    "gpu.cudaVersion": (False, {"a number": 12.4, "no minor": "12", "a word": "latest"}),
    "idleDeadlineSeconds": (True, {"too short": 59, "none": 0, "negative": -60, "a text": "900"}),
    "pendingDeadlineSeconds": (False, {"too short": 59, "negative": -60, "a text": "900"}),
    "data.maxUploadGB": (True, {"negative": -1, "too much": 100_001, "half": 0.5}),
    "gpu.count": (True, {"zero": 0, "65": 65, "a text": "1", "half": 1.5}),
    "gpu.memoryGB": (True, {"zero": 0, "4097": 4097, "a suffix": "24Gi"}),
    "gpu.models": (True, MODELS),
    "resources.cpu": (False, {"zero": 0, "1025": 1025, "a suffix": "500m"}),
    "resources.memoryGB": (False, {"zero": 0, "16385": 16_385}),
    "resources.diskGB": (True, {"seven": 7, "16385": 16_385, "a suffix": "20Gi"}),
    "image": (True, IMAGES),
    "command": (True, PROGRAMS),
    "args": (
        True,
        {
            "a NUL": ["\0"],
            "257 of them": ["x"] * 257,
            "a text": "x",
            "a word of 17 kB": ["x" * 16_385],
        },
    ),
    "env": (True, VARIABLES),
    "workingDir": (
        True,
        {
            "relative": "work",
            "empty": "",
            "a line break": "/a\nb",
            "a NUL": "/a\0b",
            "an escape": "/a\x1b[2J",
            "too long": "/" + "x" * 1024,
        },
    ),
    "failurePolicy.rules": (
        False,
        {
            "success": [RULE | {"onExitCodes": {"operator": "In", "values": [0]}}],
            "256": [RULE | {"onExitCodes": {"operator": "In", "values": [256]}}],
            "no values": [RULE | {"onExitCodes": {"operator": "In", "values": []}}],
            "an unknown operator": [RULE | {"onExitCodes": {"operator": "Is", "values": [1]}}],
            "an unknown action": [RULE | {"action": "Retry"}],
            "21 of them": [RULE] * 21,
        },
    ),
    "privileged": (True, {"an unknown field": True}),
    "driver": (
        True,
        {
            "a number": 1,
            "its node's network": {"hostNetwork": True},
            "an account": {"serviceAccountName": "admin"},
            "a user": {"podSecurityContext": {"runAsUser": 0}},
            "files of its node": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
            "a Secret elsewhere": {"imagePullSecrets": [{"name": "kube-system/admin"}]},
            "the cluster's priority": {"priorityClassName": "system-node-critical"},
            "a negative CPU": {"resources": {"limits": {"cpu": -1}}},
            "no CPU": {"resources": {"limits": {"cpu": 0}}},
            "no memory, as text": {"resources": {"limits": {"memory": "0Mi"}}},
            "no storage, to the last digit": {
                "resources": {"limits": {"ephemeral-storage": "0.00"}}
            },
            "no AppArmor": {
                "annotations": {"container.apparmor.security.beta.kubernetes.io/driver": "x"}
            },
            "no seccomp": {
                "annotations": {"container.seccomp.security.alpha.kubernetes.io/driver": "x"}
            },
            "no seccomp at all": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}},
            "no quantity": {"resources": {"limits": {"memory": "lots"}}},
            "a GPU": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
            "33 annotations": {"annotations": {f"a{at}": "x" for at in range(33)}},
            "a long annotation": {"annotations": {"a": "x" * 4097}},
            "17 taints": {"tolerations": [{"operator": "Exists"}] * 17},
        },
    ),
    "driver.labels": (
        True,
        {
            "one of ours": {"gpujob.dev/job": "other"},
            "the component": {"app.kubernetes.io/component": "other"},
            "the manager": {"app.kubernetes.io/managed-by": "other"},
            "the name": {"app.kubernetes.io/name": "other"},
            "a line break": {"team": "a\nb"},
            "a switch": {"sidecar.istio.io/inject": True},
        },
    ),
    "driver.annotations": (True, {"one of ours": {"gpujob.dev/job": "other"}}),
    "driver.nodeSelector": (False, {"no key": {"a b": "x"}, "no domain": {"/a": "x"}}),
    "metadata.name": (
        True,
        {
            "53 signs": "a" * 53,
            "upper case": "Job",
            "a slash": "a/b",
            "a path upward": "..",
            "a line break": "a\nb",
            "a second command": "a;reboot",
            "unicode": "jöb",
        },
    ),
    "metadata.labels": (True, {"a line break": {"team": "a\nb"}, "a mark": {"a/b/c": "x"}}),
}

HARMLESS = {"gpu.models: one unknown of two"}
"""Surely a mistake; but the other model is there, and the job is as safe on it as any."""

CORPUS = [
    Wrong(
        f"{field}: {name}",
        _with(field, value),
        matters and f"{field}: {name}" not in HARMLESS,
    )
    for field, (matters, values) in TABLE.items()
    for name, value in values.items()
]
