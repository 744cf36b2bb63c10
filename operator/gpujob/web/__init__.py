"""What all HTTP listeners share: the server, reading of bodies and tokens, limits and problems."""
