"""The SMTP receiver: our own sans-io protocol on asyncio.

Read in this order: listener (sockets, limits), connection (one socket), session (the dialog), state (the table),
commands and data (parsing), intake (the text on its way in), replies (every text that is said).
"""
