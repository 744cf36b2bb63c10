"""The commands of hack/release."""

import argparse
import os
import sys
from pathlib import Path

from releasing import chart, image, references, sbom, signatures
from releasing.github import Repository
from releasing.image import TARGETS
from releasing.programs import ReleaseError, tool


def main() -> int:
    """Runs the command that the command line names; returns 1 if the release must stop."""
    arguments = parser().parse_args()
    try:
        printed = _do(arguments)
    except ReleaseError as refused:
        print(f"release: {refused}", file=sys.stderr)
        return 1
    if printed:
        print(printed)
    return 0


def _do(arguments: argparse.Namespace) -> str | None:
    match arguments.command:
        case "version":
            return references.version_of(arguments.tag, references.written_versions())
        case "image":
            source = image.read_source(arguments.version, _address())
            if arguments.twice:
                return image.build_twice(source, arguments.target)
            return image.build(source, arguments.target, arguments.archive)
        case "chart":
            committed = image.read_source(arguments.version, _address()).committed
            images = (arguments.operator.lower(), arguments.driver.lower())
            arguments.folder.mkdir(parents=True, exist_ok=True)
            return chart.checksum(
                chart.package(*images, arguments.version, committed, arguments.folder)
            )
        case "push-image":
            return image.push(arguments.archive, arguments.reference, arguments.version)
        case "push-chart":
            return chart.push(arguments.archive, arguments.repository, arguments.digest)
        case "sbom":
            bill = sbom.text(sbom.make(arguments.target, arguments.reference, arguments.version))
            arguments.folder.mkdir(parents=True, exist_ok=True)
            names = [f"gpujob-{arguments.target}-{arguments.version}.cdx.json"]
            if arguments.target == "operator":
                names.append("sbom.json")
            for name in names:
                (arguments.folder / name).write_text(bill)
        case "sign":
            signatures.sign(arguments.reference, _signer(arguments))
        case "attest":
            signatures.attest(arguments.reference, _signer(arguments), arguments.sbom)
        case "verify":
            signatures.verify(arguments.reference, _signer(arguments), arguments.sbom)
            return f"{arguments.reference} is signed"
        case "publish":
            return Repository.from_environment().publish(arguments.tag, arguments.files)
        case "tool":
            return tool(arguments.name)
    return None


def _signer(arguments: argparse.Namespace) -> signatures.Signer:
    if arguments.key:
        return signatures.Key(arguments.key)
    return signatures.Workflow(arguments.identity, arguments.commit)


def _address() -> str:
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server}/{name}" if server and name else ""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    release = argparse.ArgumentParser(prog="hack/release", description="One step of a release.")
    commands = release.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("version", help="print the version that a tag releases")
    command.add_argument("tag")

    command = commands.add_parser("image", help="build an image; print its digest")
    command.add_argument("version")
    _add_target(command)
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--archive", type=Path, help="OCI archive to write")
    where.add_argument("--twice", action="store_true", help="build twice and compare; keep nothing")

    command = commands.add_parser("chart", help="package the chart; print the archive's digest")
    command.add_argument("version")
    command.add_argument("--operator", required=True, help="image of the operator, NAME@sha256:…")
    command.add_argument("--driver", required=True, help="image of the driver, NAME@sha256:…")
    command.add_argument("--folder", required=True, type=Path, help="folder for the archive")

    command = commands.add_parser("push-image", help="push an image's archive; print it by digest")
    command.add_argument("version")
    command.add_argument("archive", type=Path)
    command.add_argument("reference", help="what was built, NAME@sha256:…")

    command = commands.add_parser("push-chart", help="push the chart's archive; print it by digest")
    command.add_argument("archive", type=Path)
    command.add_argument("--repository", required=True, help="for example ghcr.io/owner/charts")
    command.add_argument("--digest", required=True, help="of the archive that was built, sha256:…")

    command = commands.add_parser("sbom", help="write a bill, gpujob-TARGET-VERSION.cdx.json")
    command.add_argument("version")
    _add_target(command)
    command.add_argument("reference", help="NAME@sha256:…")
    command.add_argument("--folder", required=True, type=Path)

    command = commands.add_parser("sign", help="sign an image or a chart in both formats")
    command.add_argument("reference", help="NAME@sha256:…")
    _add_signer(command)

    command = commands.add_parser("attest", help="sign a bill of materials of an image")
    command.add_argument("reference", help="NAME@sha256:…")
    command.add_argument("--sbom", required=True, type=Path)
    _add_signer(command)

    command = commands.add_parser("verify", help="fail unless signed in both formats")
    command.add_argument("reference", help="NAME@sha256:…")
    command.add_argument("--sbom", type=Path, help="a bill that must be attested too")
    _add_signer(command)

    command = commands.add_parser("publish", help="draft a release, upload, check, publish")
    command.add_argument("tag")
    command.add_argument("files", nargs="+", type=Path)

    command = commands.add_parser("tool", help="print the path of a program")
    command.add_argument("name", choices=("actionlint", "cosign", "crane"))
    return release


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", required=True, help=f"which image: {' or '.join(TARGETS)}")


def _add_signer(command: argparse.ArgumentParser) -> None:
    who = command.add_mutually_exclusive_group(required=True)
    who.add_argument("--identity", help="keyless: URL of the workflow file at its tag")
    who.add_argument("--key", type=Path, help="a key, for a registry on this machine")
    command.add_argument("--commit", help="keyless: the commit that the workflow ran for")


if __name__ == "__main__":
    sys.exit(main())
