"""The chart as Helm renders it, and sets of values as platform teams give them."""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from localcluster.paths import ROOT

CHART = ROOT / "helm/gpujob"
EXAMPLES = ROOT / "helm/examples"
NAMESPACE = "system"
DIGEST = "sha256:" + "0" * 64
Object = dict[str, Any]


def helm(programs: Path, version: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs Helm, whatever comes of it."""
    return subprocess.run(
        [str(programs / version), *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )


def rendered(
    programs: Path,
    *sets: str,
    version: str = "helm",
    values: Object | None = None,
    namespace: str = NAMESPACE,
) -> str:
    """Returns the chart as rendered for a release `gpujob`, from values and from `--set`."""
    given = [f"--set={one}" for one in ("vast.existingSecret=vast", *sets)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        arguments = ("-n", namespace, f"--values={file.name}", *given)
        done = helm(programs, version, "template", "gpujob", str(CHART), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(
    programs: Path, *sets: str, values: Object | None = None, namespace: str = NAMESPACE
) -> list[Object]:
    """Returns the rendered objects; not to be changed."""
    return _parsed(programs, sets, json.dumps(values), namespace)


@functools.cache
def _parsed(programs: Path, sets: tuple[str, ...], values: str, namespace: str) -> list[Object]:
    text = rendered(programs, *sets, values=json.loads(values), namespace=namespace)
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def made(programs: Path, kind: str, *sets: str, values: Object | None = None) -> dict[str, Object]:
    """Returns the rendered objects of a kind by name."""
    found = objects(programs, *sets, values=values)
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def _example(name: str) -> Object:
    """The values in a GitOps tool's object."""
    *_, document = yaml.safe_load_all((EXAMPLES / name).read_text())
    spec: Object = document["spec"]
    values: Object = spec["values"] if "values" in spec else spec["source"]["helm"]["valuesObject"]
    return values


PROMETHEUS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
PORTAL = {"namespaceSelector": {"matchExpressions": [{"key": "portal", "operator": "Exists"}]}}

VALUE_SETS: dict[str, Object] = {
    "nothing but the Secret": {},
    "one of each": {"replicas": 1, "webhook": {"replicas": 1}},
    "three of each": {"replicas": 3, "webhook": {"replicas": 3}},
    "our own registry": {
        "image": {"repository": "registry.example.com:5000/gpujob", "digest": DIGEST, "tag": "1"},
        "driver": {"image": {"repository": "registry.example.com:5000/driver", "tag": "1"}},
        "imagePullSecrets": ["registry", "mirror"],
    },
    "the HTTP API": {
        "api": {"install": True, "mode": "development", "bootstrapSecret": "first"},
        "networkPolicy": {"apiFrom": [PORTAL]},
    },
    "no webhook": {"webhook": {"install": False}},
    "cert-manager": {"webhook": {"certManager": True}},
    "CRDs and policies by somebody else": {
        "crds": {"install": False},
        "admissionPolicies": {"install": False},
    },
    "no network policies": {"networkPolicy": {"install": False}},
    "closed networks": {
        "vast": {"url": "http://provider.example.com:8000/path"},
        "api": {"install": True},
        "networkPolicy": {
            "jobNamespaces": ["default", "kube-public"],
            "internet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.0/24"]}],
            "apiServer": {"cidrs": ["10.77.0.1/32"], "ports": [6443]},
            "metricsFrom": [PROMETHEUS],
            "apiFrom": [{"ipBlock": {"cidr": "192.168.1.0/24"}}],
        },
    },
    "Prometheus": {
        "networkPolicy": {"metricsFrom": [PROMETHEUS]},
        "podMonitor": {"install": True, "labels": {"release": "prometheus"}},
    },
    "whoever edits may spend": {"roles": {"aggregateToView": False, "aggregateToEdit": True}},
    "other constants": {
        "limits": {"maxLeases": 3, "maxUsdPerHour": "12.50", "pollSeconds": 30},
        "logLevel": "DEBUG",
    },
    "a place of its own": {
        "nodeSelector": {"pool": "infra"},
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "system-cluster-critical",
        "resources": {"requests": {"cpu": 1, "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}},
    },
    "labels and annotations": {
        "commonLabels": {"team": "ml", "example.com/cost-centre": "42"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
    },
    "more objects": {
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-more"},
                "data": {"where": "{{ .Release.Namespace }}"},
            }
        ]
    },
    "by Argo CD": _example("argocd-application.yaml"),
    "by Flux": _example("flux-helmrelease.yaml"),
    "the demo": yaml.safe_load((ROOT / "hack/demo.d/values.yaml").read_text()),
}
"""Values besides `vast.existingSecret`."""
