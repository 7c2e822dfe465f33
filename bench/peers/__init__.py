"""One file for each peer: how it is set up, and when its messages count."""
