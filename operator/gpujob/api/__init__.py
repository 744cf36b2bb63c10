"""What users see: kinds of object and reasons; and what driver and controller tell each other."""
