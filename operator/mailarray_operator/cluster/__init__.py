"""The one place that talks to the API server and to servers' internal ports: observes, applies, elects a leader."""
