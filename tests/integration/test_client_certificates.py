"""A real API server shows the server of admission its certificate, as the chart's README says.

Its commands and files are taken from there; only where files lie, and the port, are the test's own.
"""

import base64
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.authority import certificate
from tests.integration.api import secret
from tests.integration.conftest import chart, control_plane, fresh_namespace
from tests.integration.corpus import GOOD
from tests.integration.parts import ROOT, AdmissionServer, Kubectl, eventually, operators_config
from tests.integration.test_bad_input import manifest

from localcluster import binaries
from localcluster.control_plane import ControlPlane

DOCUMENTED = "/etc/kubernetes/webhooks"
SERVICE = "gpujob-server.gpujob-system.svc"
SERVER = certificate(SERVICE)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of the test's own: its API server is started anew."""
    with control_plane(tmp_path / "state") as running:
        yield running


def block(words: str) -> str:
    """Returns the one block of the README with these words."""
    blocks = re.findall(r"(?m)^(?: {4}.*\n)+", (ROOT / "helm/gpujob/README.md").read_text())
    (found,) = (textwrap.dedent(one) for one in blocks if words in one)
    return found


def install(kubectl: Kubectl, port: int) -> None:
    """Installs the chart's webhook, its Service leading to a port of this machine."""
    name = {"name": "gpujob-server", "namespace": "gpujob-system"}
    kubectl("delete", "service", name["name"], "-n", name["namespace"])
    spec = {"type": "ExternalName", "externalName": "localhost"}
    kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": spec})
    shown = {"tls.crt": SERVER.chain, "tls.key": SERVER.key.get_secret_value()}
    coded = {key: base64.b64encode(text.encode()).decode() for key, text in shown.items()}
    kubectl.client.apply(secret("gpujob-server-tls", coded))
    documents = chart(binaries.folder())
    (webhook,) = (one for one in documents if one["kind"] == "ValidatingWebhookConfiguration")
    client = webhook["webhooks"][0]["clientConfig"]
    client["service"]["port"] = port
    client["caBundle"] = base64.b64encode(SERVER.authority.encode()).decode()
    kubectl.apply(webhook)


def test_an_api_server_that_shows_its_certificate_is_answered(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """And one that shows none stores no job, good or not, and says that its webhook failed."""
    subprocess.run(["bash", "-euc", block("openssl req")], cwd=tmp_path, check=True)
    kubectl = Kubectl(plane, plane.kubeconfig)
    server = AdmissionServer(
        tmp_path,
        operators_config(plane, tmp_path / "server.kubeconfig", account="gpujob-server"),
        GPUJOB_ADMISSION_CLIENT_CA=(tmp_path / "ca.crt").read_text(),
        GPUJOB_ADMISSION_CLIENT_NAMES="gpujob-webhook-client",
    )
    install(kubectl, server.port)
    with fresh_namespace(kubectl) as namespace:

        def told(image: str, *arguments: str) -> str:
            text = manifest(namespace, GOOD | {"suspend": True, "image": image}, "job")
            done = kubectl.run("apply", "-f", "-", *arguments, text=text)
            return done.stdout + done.stderr

        # Its probes are asked here, without a certificate.
        server.start()
        try:
            unasked = 'failed calling webhook "gpujobs.validate.gpujob.dev"'
            dry = "--dry-run=server"
            eventually("the webhook is in force", lambda: unasked in told("python:3.11", dry))
            assert unasked in told("python:3.11")
            assert kubectl.get("gpujob", "job", namespace) is None
            assert '"problem": "it shows no certificate"' in server.log

            plane.kill_apiserver()
            for name, words in (
                ("admission.yaml", "kind: AdmissionConfiguration"),
                ("users.yaml", "kind: Config\n"),
            ):
                text = block(words).replace(DOCUMENTED, str(tmp_path))
                (tmp_path / name).write_text(text.replace(SERVICE, f"{SERVICE}:{server.port}"))
            plane.admission = tmp_path / "admission.yaml"
            plane.up()

            refused = "spec.image: 'Python' is not a container image"
            eventually("the webhook answers", lambda: refused in told("Python", dry))
            assert refused in told("Python")
            assert kubectl.get("gpujob", "job", namespace) is None
            assert "gpujob.gpujob.dev/job created" in told("python:3.11")
        finally:
            print(f"--- server's log\n{server.log[-5000:]}")
            server.stop()
            kubectl("delete", "validatingwebhookconfiguration", "gpujob-system-gpujob")
