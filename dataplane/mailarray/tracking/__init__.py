"""The message tracking agent (patent, item 18): the `catalog` sidecar of every server.

It keeps the mirror copies that others send here (`receiving.py`), serves reads (`serving.py`), fences and seals
segments (`fencing.py`, `sealing.py`), registers placements in the catalog (`registering.py`), keeps a local index for
the time when the catalog is away (`local_index.py`), and watches writers (`watching.py`).
"""
