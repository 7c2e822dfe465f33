"""One file a version; the newest is `HEAD`."""
