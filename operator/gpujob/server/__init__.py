"""The server: answers reviews of GpuJobs and the HTTP API. It holds no account key."""
