"""What an attempt may cost, whether that is surely within the ceiling, and when it must stop."""
