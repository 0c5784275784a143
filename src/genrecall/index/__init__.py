"""The trie of valid SIDs and what may be returned from it."""
