"""The HTTP API for whoever holds no kubeconfig: the same objects, the same rights."""
