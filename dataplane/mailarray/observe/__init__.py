"""How the processes are seen from outside: structured logs, metrics and status over HTTP.

Imported by every process; knows nothing of mail.
"""
