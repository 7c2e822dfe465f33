"""MailCluster, MailServer and MirrorPair as a user writes them, typed: one file a kind, one reader for all.

The launcher on one machine reads them from a file, the operator from the API server, and both make the same settings
of them (`to_settings.py`). Standard library only. The CRDs say the same to the API server; a test compares them.
"""
