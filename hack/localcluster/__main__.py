"""The commands of hack/cluster."""

import argparse
from pathlib import Path

from localcluster import binaries, kind
from localcluster.control_plane import ControlPlane
from localcluster.node import Node
from localcluster.paths import state


def main() -> None:
    """Parses the command line and does what it says."""
    parser = argparse.ArgumentParser(
        prog="hack/cluster",
        description="A local Kubernetes: by kind where a container engine runs, else as plain "
        "processes in namespaces of their own (needs root).",
    )
    parser.add_argument("--name", default="gpujob", help="name of the cluster (default: gpujob)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the cluster; does nothing if it runs")
    up.add_argument(
        "--control-plane",
        action="store_true",
        help="etcd, API server and controller manager only, on the loopback",
    )
    commands.add_parser("down", help="end it and leave nothing behind")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("bin", help="print the folder with kubectl, helm and the rest")
    load = commands.add_parser("load", help="import image archives")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    arguments = parser.parse_args()

    plane = ControlPlane(state(f"{arguments.name}-control-plane"))
    cluster = kind.Kind(arguments.name) if kind.engine() else Node(arguments.name)
    match arguments.command:
        case "up" if arguments.control_plane:
            plane.up()
            print(f"cluster: control plane is up; KUBECONFIG={plane.kubeconfig}")
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
            print(binaries.ensure(binaries.CONTROL_PLANE + binaries.CHART))
        case "load":
            for archive in arguments.archives:
                cluster.load(archive.resolve())


if __name__ == "__main__":
    main()
