"""The commands of hack/cluster."""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from localcluster import binaries, kind
from localcluster.control_plane import ControlPlane
from localcluster.node import Node
from localcluster.paths import state


def main() -> None:
    """Runs the command that the command line names."""
    parser = argparse.ArgumentParser(
        prog="hack/cluster",
        description="Runs a local Kubernetes cluster: with kind if a container engine runs, "
        "otherwise as plain processes in Linux namespaces, which needs root.",
    )
    parser.add_argument("--name", default="gpujob", help="name of the cluster (default: gpujob)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the cluster, unless it runs already")
    up.add_argument(
        "--control-plane",
        action="store_true",
        help="only etcd, API server and controller manager, on the loopback interface",
    )
    commands.add_parser("down", help="stop the cluster and remove all of its state")
    commands.add_parser("status", help="print what runs")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("bin", help="print the folder with kubectl, helm and the other programs")
    load = commands.add_parser("load", help="import image archives into the cluster")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    arguments = parser.parse_args()

    plane = ControlPlane(state(f"{arguments.name}-control-plane"))
    cluster = kind.Kind(arguments.name) if kind.engine() else Node(arguments.name)
    match arguments.command:
        case "up" if arguments.control_plane:
            plane.up()
            print(f"cluster: the control plane runs; KUBECONFIG={plane.kubeconfig}")
        case "up":
            cluster.up()
        case "down":
            plane.down()
            cluster.down()
        case "status":
            print(cluster.status())
        case "kubeconfig":
            print(cluster.kubeconfig if cluster.kubeconfig.exists() else plane.kubeconfig)
        case "bin":
            # Standard output is for the path.
            with redirect_stdout(sys.stderr):
                folder = binaries.ensure(binaries.CONTROL_PLANE + binaries.CHART)
            print(folder)
        case "load":
            for archive in arguments.archives:
                cluster.load(archive.resolve())


if __name__ == "__main__":
    main()
