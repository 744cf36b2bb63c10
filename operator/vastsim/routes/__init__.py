"""The routes of the provider's API by subject, and the simulator's own controls."""
