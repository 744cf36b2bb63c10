"""The pure parts of the local cluster, and its path through kind tried against stub programs."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import demo
from localcluster.images import Image, write_archive, write_layer
from localcluster.node import Node
from localcluster.paths import ROOT, state
from localcluster.processes import Processes, start_time


def test_an_archive_says_what_is_in_it(tmp_path: Path) -> None:
    """Index, manifest, config and layer are found by the digests that name them."""
    layer = write_layer(tmp_path / "layer", {"hello": b"world"})
    archive = tmp_path / "image.tar"
    write_archive(Image("localhost/x:1", (layer,), ("/hello",), "1:1"), archive)
    with tarfile.open(archive) as opened:
        files = {
            member.name: stream.read()
            for member in opened
            if (stream := opened.extractfile(member)) is not None
        }
    (described,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[_blob(described["digest"])])
    config = json.loads(files[_blob(manifest["config"]["digest"])])

    assert described["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    assert config["config"]["User"] == "1:1"
    assert config["rootfs"]["diff_ids"] == [one["digest"] for one in manifest["layers"]]
    for name, held in files.items():
        if name.startswith("blobs/"):
            assert name.endswith(hashlib.sha256(held).hexdigest())


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def test_the_same_files_make_the_same_layer(tmp_path: Path) -> None:
    """Time, owner and order do not matter."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "b").write_text("2")
    (source / "a").write_text("1")
    first = write_layer(tmp_path / "one", {"x": source}).read_bytes()
    os.utime(source / "a", (1, 1))

    assert write_layer(tmp_path / "two", {"x": source}).read_bytes() == first


def test_only_the_recorded_process_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid that is somebody else's by now is left alone."""
    monkeypatch.setenv("GPUJOB_CACHE", str(tmp_path / "cache"))
    processes = Processes(tmp_path)
    pid = processes.start("sleeper", ["sleep", "1000"])
    other = subprocess.Popen(["sleep", "1000"])
    (tmp_path / "processes.json").write_text(
        json.dumps({"sleeper": [pid, start_time(pid)], "stale": [other.pid, 1]})
    )
    processes.end("stale")
    assert other.poll() is None
    processes.end("sleeper")

    assert start_time(pid) is None
    assert processes.recorded() == {}
    other.kill()
    other.wait()


COMPILER = """#!/bin/sh
[ "$1" = env ] && { echo go1.26.6; exit; }
echo "$*" >> "$STUB_LOG"
until [ -e "$STUB_LOG.go" ]; do sleep 0.05; done
while [ "$1" != -o ]; do shift; done
touch "$2"
"""
BUILD = """
from localcluster import binaries
print("begins", flush=True)
binaries.ensure((binaries.Program("one", "k8s", "example.com/one"),))
"""


def test_what_two_processes_need_at_once_is_built_once(tmp_path: Path) -> None:
    """The second waits for the first; it takes minutes and gigabytes otherwise."""
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    (tools / "go").write_text(COMPILER)
    (tools / "go").chmod(0o755)
    settings = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "hack"),
        "GPUJOB_CACHE": str(tmp_path / "cache"),
        "STUB_LOG": str(log),
    }
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True, env=settings
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "begins\n"
    (tmp_path / "log.go").touch()
    for builder in builders:
        builder.communicate()

    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(log.read_text().splitlines()) == 1


STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$STUB_LOG"
case "$*" in
  "get clusters") cat "$STUB_LOG.clusters" 2>/dev/null || true ;;
  "create cluster"*) echo mine > "$STUB_LOG.clusters" ;;
  "get kubeconfig"*) echo "apiVersion: v1" ;;
  "delete cluster"*) rm -f "$STUB_LOG.clusters" ;;
esac
"""


def test_with_an_engine_it_is_kind(tmp_path: Path) -> None:
    """up creates once, load and down go to kind, kubeconfig is written, images are docker's."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("docker", "kind"):
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    log = tmp_path / "log"
    archive = tmp_path / "image.tar"
    archive.touch()
    script = (
        "from pathlib import Path\n"
        "from localcluster import binaries, kind\n"
        "binaries.ensure = lambda programs: print(*(program.name for program in programs))\n"
        "assert kind.engine() == 'docker'\n"
        "cluster = kind.Kind('mine')\n"
        "cluster.reserve(); cluster.up(); cluster.up()\n"
        "try: kind.Kind('mine').reserve()\n"
        "except FileExistsError: print('refused')\n"
        f"cluster.load(Path('{archive}'))\n"
        "assert cluster.kubeconfig.read_text() == 'apiVersion: v1\\n'\n"
        "print(cluster.status()); cluster.down(); print(cluster.status())\n"
        "from localcluster import project_images\n"
        f"project_images.build(Path('{tmp_path}'))\n"
    )
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-c", script],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "hack"),
            "GPUJOB_CACHE": str(tmp_path / "cache"),
            "STUB_LOG": str(log),
        },
    )
    lines = log.read_text().splitlines()
    calls = [line for line in lines if line.startswith("kind")]

    assert done.returncode == 0, done.stderr
    assert sum("create cluster --name mine" in call for call in calls) == 1
    assert f"kind load image-archive {archive} --name mine" in calls
    assert "kubectl helm helm4\n" in done.stdout, "what a user of the cluster needs is built"
    assert "refused\n" in done.stdout
    assert "mine: runs in kind" in done.stdout
    assert "mine: does not run" in done.stdout
    dockerfile = f"--file {ROOT / 'operator/Dockerfile'}"
    images = {"operator": "gpujob", "driver": "gpujob-driver", "simulator": "vastsim"}
    for target, name in images.items():
        tag = f"localhost/{name}:dev"
        assert f"docker build --quiet {dockerfile} --target {target} --tag {tag} {ROOT}" in lines
        assert f"docker save --output {tmp_path / name}.tar {tag}" in lines


def test_a_demo_leaves_a_cluster_alone_that_it_has_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and how to go on."""
    monkeypatch.setenv("GPUJOB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no container engine
    monkeypatch.setattr(sys, "argv", ["demo", "--name", "somebodys"])
    Node("somebodys").reserve()

    assert demo.main() == 1
    assert Node("somebodys").state.exists()
    said = capsys.readouterr().err
    assert "there is a cluster somebodys already" in said
    assert "hack/cluster --name somebodys down" in said


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 61, "a b"])
def test_what_could_be_another_folder_is_no_name_of_a_cluster(name: str) -> None:
    """Its folder is removed with it."""
    with pytest.raises(SystemExit, match="cannot be the name of a cluster"):
        state(name)
