"""The local mailbox database (patent, item 14): domains, accounts, aliases, passwords.

`directory.py` is the interface that the flat file has now and SQL and LDAP will have; `flatfile.py` the first one.
"""
