"""The program in the driver pod: runs the workload on the rented machine over SSH."""
