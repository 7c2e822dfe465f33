"""The catalog (patent, figure 6): for every message and mailbox, the servers that hold it.

An index of the journals, never the truth: it can be dropped and rebuilt. `catalog.py` is the interface,
and says what each call promises.
"""
