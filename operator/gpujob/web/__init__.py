"""What all HTTP listeners share: the server, the readers of bodies and tokens, limits, problems."""
