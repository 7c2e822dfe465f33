"""Accounts in a database: `accounts: {database: {}}`. Here and in `catalog` alone are SQLAlchemy and its drivers known.

The tables live in the catalog's database, in a schema of their own that no rebuild or reset of the catalog touches: in
PostgreSQL the schema `accounts`; on SQLite, whose schemas are files, the file `accounts.sqlite` beside the catalog's.

Changed by `mailarray account`; read by snapshot keepers (`directory/keeping.py`). No listener asks a database: RCPT and
login are answered from a snapshot, so that both work while the database is away.
"""
