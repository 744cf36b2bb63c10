"""What a rented machine and its driver are told, and whether the machine is good enough."""
