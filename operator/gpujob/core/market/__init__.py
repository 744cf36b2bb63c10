"""What the market offers, what the account has leased, and how far machines are trusted."""
