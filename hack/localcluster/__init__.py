"""Test tooling: a real Kubernetes on this machine, with or without a container engine.

See `__main__.py` for the commands, `node.py` for the cluster in Linux namespaces,
`control_plane.py` for the part that integration tests use, and `images.py` for images that are
built without an engine.
"""
