"""`kubectl mailarray`: a mail server that runs on Kubernetes, in tables that people like to read.

Everything goes through the `kubectl` binary, so a person's kubeconfig, context and rights are what counts; there is no
client of our own, and nothing here decides what the operator decides. Knows of the operator its names alone.
"""
