"""What a rented machine and its driver have to do, and whether the machine is good enough."""
