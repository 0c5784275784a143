"""What the service remembers: events, histories, profiles, delisted items."""
