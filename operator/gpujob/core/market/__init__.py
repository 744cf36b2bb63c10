"""What the market offers, what is leased of it, and how far its machines are trusted."""
