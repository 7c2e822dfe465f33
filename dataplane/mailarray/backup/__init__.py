"""Backups: sealed segments, each once, with what the journals do not hold, in a directory or an object store.

Called by the command line alone; no process of an array needs it. Format: docs/formats/backup.md.
"""
