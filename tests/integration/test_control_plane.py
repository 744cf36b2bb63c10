"""The control plane of these tests: its certificates are kubeadm's, its keys are kept."""

import base64
from pathlib import Path

import yaml
from cryptography import x509
from tests.integration.parts import Kubectl

from localcluster import binaries
from localcluster.control_plane import ControlPlane
from localcluster.pki import Authority


def test_the_keys_are_kept_over_a_resume(plane: ControlPlane) -> None:
    """New keys would make every issued token worthless."""
    files = (plane.account_key, plane.ca, plane.kubeconfig)
    before = [path.read_bytes() for path in files]
    plane.up()

    assert [path.read_bytes() for path in files] == before


def test_the_administrator_may_do_everything(plane: ControlPlane) -> None:
    """By its group, which the API server trusts without any role."""
    kubectl = Kubectl(plane, plane.kubeconfig)

    assert kubectl("auth", "can-i", "*", "*", "-A").strip() == "yes"


def test_a_kubelet_shows_the_name_and_the_group_of_its_node(tmp_path: Path) -> None:
    """The node authorizer goes by them."""
    programs = binaries.ensure(binaries.CONTROL_PLANE)
    made = Authority(tmp_path / "pki", programs / "kubeadm", "node-1", "10.0.0.1", "10.0.0.0/24")
    made.make()
    made.write_kubeconfig("kubelet", "https://127.0.0.1:6443", tmp_path / "kubelet")
    config = yaml.safe_load((tmp_path / "kubelet").read_text())
    shown = base64.b64decode(config["users"][0]["user"]["client-certificate-data"])
    certificate = x509.load_pem_x509_certificate(shown)
    authority = x509.load_pem_x509_certificate((tmp_path / "pki/ca.crt").read_bytes())

    assert certificate.subject.rfc4514_string() == "CN=system:node:node-1,O=system:nodes"
    certificate.verify_directly_issued_by(authority)
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
