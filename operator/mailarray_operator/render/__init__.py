"""Pure rendering: resources and decisions in, manifests out; one file a Kubernetes kind. Golden manifests test it."""
