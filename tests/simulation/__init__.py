"""The array in virtual time: production classes, a seed, and everything that can go wrong (docs/simulation.md).

python -m tests.simulation --seeds 10000          play them; the last line is a summary
python -m tests.simulation --seed 17 --trace      one of them, with everything that happens
python -m tests.simulation --plant all            each planted bug until a seed catches it

loop.py       virtual time; what belongs to a process ends with it
disk.py       disks that lose what no sync covered
network.py    requests that are lost, late, doubled, cut off
database.py   the catalog's statements on SQLite in memory; away, restored, dropped
servers.py    one server: sidecar and writer, and what can be done to them
clients.py    senders and readers
ledger.py     what was promised, and the checks of it
world.py      all of them together, in the place of clock, threads, sockets and random bytes
events.py     what happens, and how one run goes
stories.py, stories_of_wear.py   troubles that come one after the other
planted/      bugs planted on purpose, rule by rule
runs.py, command.py   many seeds; the command
"""
