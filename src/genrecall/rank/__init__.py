"""Joint ranking: sparse features and the language model's states score one request's candidates in one forward."""
