"""The chart as Helm renders it, and sets of values as platform teams give them."""

import functools
import json
import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from gpujob.adapters import pki
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


CLIENT_CA = pki.make_authority(
    frozenset(), now=datetime(2026, 1, 1, tzinfo=UTC), life_seconds=3e8
).certificate
"""By which the API server is known where it shows a certificate."""
PROMETHEUS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
PORTAL = {"namespaceSelector": {"matchExpressions": [{"key": "portal", "operator": "Exists"}]}}

VALUE_SETS: dict[str, Object] = {
    "nothing but the Secret": {},
    "one of each": {"replicaCount": 1, "webhook": {"replicaCount": 1}},
    "three of each": {"replicaCount": 3, "webhook": {"replicaCount": 3}},
    "our own registry": {
        "image": {
            "registry": "registry.example.com:5000",
            "repository": "gpujob",
            "digest": DIGEST,
            "tag": "1",
        },
        "driver": {
            "image": {
                "registry": "registry.example.com:5000",
                "repository": "driver",
                "tag": "1",
            }
        },
        "imagePullSecrets": ["registry", "mirror"],
    },
    "some namespaces": {"jobNamespaces": ["team-a", "team-b"], "api": {"enabled": True}},
    "no rights on the cluster": {
        "jobNamespaces": ["team-a"],
        "rbac": {"clusterRoles": False},
        "crds": {"enabled": False},
        "admissionPolicies": {"enabled": False},
        "webhook": {"enabled": False},
    },
    "budgets for all": {"requireBudget": True},
    "queues of Kueue": {"kueue": {"enabled": True}},
    "queues of Kueue in some namespaces": {
        "kueue": {"enabled": True},
        "jobNamespaces": ["team-a", "team-b"],
    },
    "a copied cluster": {"identity": "5f0c6f4e-8a51-4a57-9c3b-2f4d1c9a7e10"},
    "the HTTP API": {
        "api": {"enabled": True, "mode": "development", "bootstrapSecret": "first"},
        "networkPolicy": {"apiFrom": [PORTAL]},
    },
    "no webhook": {"webhook": {"enabled": False}},
    "cert-manager": {"webhook": {"certManager": {"enabled": True}}},
    "an API server that shows a certificate": {
        "webhook": {"clientCA": CLIENT_CA * 2, "clientNames": ["gpujob-webhook-client", "system:a"]}
    },
    "CRDs and policies by somebody else": {
        "crds": {"enabled": False},
        "admissionPolicies": {"enabled": False},
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "closed networks": {
        "vast": {"url": "http://provider.example.com:8000/path"},
        "api": {"enabled": True},
        "jobNamespaces": ["jobs", "team-b"],
        "networkPolicy": {
            "internet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.0/24"]}],
            "apiServer": {"cidrs": ["10.77.0.1/32"], "ports": [6443]},
            "metricsFrom": [PROMETHEUS],
            "apiFrom": [{"ipBlock": {"cidr": "192.168.1.0/24"}}],
        },
    },
    "Prometheus": {
        "networkPolicy": {"metricsFrom": [PROMETHEUS]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "whoever edits may spend": {"rbac": {"aggregateToView": False, "aggregateToEdit": True}},
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
    "other names": {"nameOverride": "gpu", "fullnameOverride": "ml-gpu"},
    "another namespace": {"namespaceOverride": "default"},
    "accounts of somebody else": {
        "serviceAccount": {"create": False, "name": "platform"},
        "webhook": {"serviceAccount": {"create": False, "name": "platform-server"}},
    },
    "accounts with identities": {
        "serviceAccount": {
            "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"},
            "labels": {"azure.workload.identity/use": "true"},
            "automount": True,
        },
        "webhook": {"serviceAccount": {"name": "door", "annotations": {"a": "b"}}},
    },
    "as a parent chart says": {
        "enabled": True,
        "global": {
            "imageRegistry": "mirror.example.com/ghcr",
            "imagePullSecrets": [{"name": "everywhere"}, "registry"],
            "storageClass": "of another chart",
        },
        "imagePullSecrets": [{"name": "registry"}, "mirror"],
    },
    "a proxy": {
        "vast": {
            "proxyURL": "http://proxy.example.com:3128",
            "proxySecret": "proxy",
            "caBundle": {"configMap": "company-ca", "key": "bundle.pem"},
        },
        "networkPolicy": {"proxyTo": [{"ipBlock": {"cidr": "10.9.0.0/24"}}]},
    },
    "OpenShift": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None},
        "driver": {
            "podSecurityContext": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup")),
        },
    },
    "drivers fitted to the cluster": {
        "driver": {
            "imagePullSecrets": ["mirror", {"name": "registry"}],
            "labels": {"team": "ml", "sidecar.istio.io/inject": None},
            "annotations": {"example.com/owner": "ml $(GPUJOB_NAME)"},
            "resources": {"requests": {"cpu": 0.5, "memory": "128Mi"}, "limits": {"cpu": 2}},
            "nodeSelector": {"pool": "batch"},
            "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {
                "podAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "podAffinityTerm": {"topologyKey": "rack"}}
                    ]
                }
            },
            "priorityClassName": "batch",
            "runtimeClassName": "gvisor",
        },
        "labelKeysToCopy": ["team", "example.com/cost-centre"],
        "admissionPolicies": {
            "sidecarTokenAudiences": ["istio-ca", "https://mesh.example.com"],
            "injectedVariables": ["DD_AGENT_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        },
    },
    "users of our own": {
        "podSecurityContext": {
            "runAsUser": 2000,
            "fsGroup": 2000,
            "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/gpujob.json"},
            "seLinuxOptions": {"level": "s0:c123,c456"},
        },
        "securityContext": {"runAsUser": 2000, "runAsNonRoot": True},
    },
    "names of another server": {
        "dnsPolicy": "None",
        "dnsConfig": {
            "nameservers": ["10.0.0.53"],
            "searches": ["corp.example.com"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        },
    },
    "placed by hand": {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}
                    ]
                }
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app": "noisy"}},
                        },
                    }
                ]
            },
        },
        "topologySpreadConstraints": [
            {
                "topologyKey": "topology.kubernetes.io/zone",
                "maxSkew": 1,
                "whenUnsatisfiable": "DoNotSchedule",
            },
            {
                "topologyKey": "rack",
                "maxSkew": 2,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"team": "ml"}},
            },
        ],
    },
    "not spread at all": {"topologySpreadConstraints": []},
    "slow nodes": {
        "startupProbe": {"failureThreshold": 300},
        "livenessProbe": {"timeoutSeconds": 30, "initialDelaySeconds": 5},
        "readinessProbe": {"periodSeconds": 5, "successThreshold": 2},
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 3,
        "webhook": {
            "timeoutSeconds": 15,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"},
            },
        },
    },
    "budgets of our own": {
        "replicaCount": 3,
        "podDisruptionBudget": {"minAvailable": "50%"},
        "webhook": {"podDisruptionBudget": {"maxUnavailable": 0}},
    },
    "no budgets": {
        "podDisruptionBudget": {"enabled": False},
        "webhook": {"podDisruptionBudget": {"enabled": False}},
    },
    "more variables and volumes": {
        "extraEnv": [
            {"name": "TZ", "value": "Europe/Berlin"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "extraVolumes": [
            {"name": "zones", "configMap": {"name": "zones", "optional": True}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}},
        ],
        "extraVolumeMounts": [{"name": "zones", "mountPath": "/zones", "readOnly": True}],
        "webhook": {
            "extraEnv": [{"name": "TZ", "value": "Europe/Berlin"}],
            "extraVolumes": [
                {"name": "more", "projected": {"sources": [{"secret": {"name": "more"}}]}}
            ],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        },
    },
    "two address families": {
        "service": {
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "PreferDualStack",
            "annotations": {"service.example.com/owner": "ml"},
        },
        "networkPolicy": {"metricsFrom": [PROMETHEUS]},
        "serviceMonitor": {"enabled": True},
    },
    "a ServiceMonitor": {
        "networkPolicy": {"metricsFrom": [PROMETHEUS]},
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "annotations": {"a": "b"},
            "interval": "30s",
            "scrapeTimeout": "10s",
        },
    },
    "pods as a mesh and a bill want them": {
        "podLabels": {"sidecar.istio.io/inject": "false", "cost": "ml"},
        "deploymentAnnotations": {"reloader.stakater.com/auto": "true"},
    },
    "CRDs that go with the release": {"crds": {"keep": False}},
    "by Argo CD": _example("argocd-application.yaml"),
    "by Flux": _example("flux-helmrelease.yaml"),
    "the demo": yaml.safe_load((ROOT / "hack/demo.d/values.yaml").read_text()),
}
"""Values besides `vast.existingSecret`."""
