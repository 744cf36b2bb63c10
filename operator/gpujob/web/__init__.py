"""What all our HTTP listeners share."""
