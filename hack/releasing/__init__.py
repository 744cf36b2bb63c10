"""The steps of a release: build, list, sign, verify, publish.

Each decision is a function of what was read; the programs that touch the world are cosign, crane,
helm, docker, and GitHub's REST API.
"""
