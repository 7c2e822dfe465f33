"""The writer's side of mirroring (patent, figure 5): group commit on this server and on its mirrors at once.

`writer.py` gathers batches and decides when a sender may hear 250; `segment.py` is one open segment; `candidates.py`
chooses mirrors by the mirroring table; `link.py` is what the writer knows of one mirror; `peer.py` is HTTP.
"""
