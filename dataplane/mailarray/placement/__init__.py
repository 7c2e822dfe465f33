"""Content placement (patent, dynamic DNS): by size, urgency and recipients, the group of servers that keeps a message.

`rules.py` decides, `urgency.py` reads what the sender said of urgency. Both are pure; who carries the decision out is
`smtp/placing.py`.
"""
