"""The nouns that all of the data plane shares: ids, messages on their way in, what a catalog row says."""
