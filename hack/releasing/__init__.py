"""The steps of a release: build, list, sign, verify, publish.

Decisions are functions of what was read. Everything else is done by cosign, crane, helm, docker,
and GitHub's REST API.
"""
