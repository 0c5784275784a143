"""Items, events, users and queries: reading, checking, filtering, splitting."""
