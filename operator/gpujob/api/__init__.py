"""What users see (kinds and reasons), and the messages between driver and controller."""
