"""kopf's handlers: each says "look again at this cluster" to our own loop, and nothing more."""
