"""A real Kubernetes on this machine, with or without a container engine: test tooling.

Read `__main__.py` for the commands, `node.py` for the cluster in namespaces of its own,
`control_plane.py` for the part that integration tests need, `images.py` for images without an
engine.
"""
