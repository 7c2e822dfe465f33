"""The journal: append-only segments on a volume, the only truth about mail (docs/formats/journal.md).

`format.py` knows the bytes, `disk.py` the system calls, `volume.py` the directory, `scan.py` what a crash left
behind, `member.py` one member of a segment, `fence.py` what it promised, `spool.py` bodies on their way in, and
`inspect.py` what people do with a volume when nothing else runs. No sockets, no database, no SMTP here.
"""
