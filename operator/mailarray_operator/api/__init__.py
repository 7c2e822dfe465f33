"""What the operator and Kubernetes agree on: names, labels, ports, and the resources as typed objects."""
