"""Mailarray's data plane: everything that touches mail, from the SMTP listener to the POP3 reader.

Layers, top to bottom (checked by import-linter, see pyproject.toml): cli, local, then the three
processes smtp / access / tracking side by side, then mirroring / catalog / directory, journal,
observe and tls, model, contract.
"""

__version__ = "0.1.0"
