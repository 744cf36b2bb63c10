"""The HTTP API, for users without a kubeconfig: the same objects, and the same rights."""
