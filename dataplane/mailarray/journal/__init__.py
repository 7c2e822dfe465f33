"""The journal: append-only segments on a volume, the only truth about mail (docs/formats/journal.md).

`format.py` knows the bytes, `disk.py` the system calls, `volume.py` the directory, `scan.py` what a crash left
behind, `replica.py` one member of a segment, `spool.py` bodies on their way in, `tool.py` what people do with a
volume when nothing else runs. No sockets, no database, no SMTP here.
"""
