"""What the jobs of a namespace may cost together: what is reserved, what was spent, until when."""
