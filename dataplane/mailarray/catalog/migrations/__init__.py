"""How a catalog database comes to the newest schema.

Any number of processes may call `migrate` at once: the first one works under the database's own lock, the others
wait and find nothing to do. Expand first: processes of the version before keep running on the new schema while a
cluster rolls, so a migration only adds (tables, columns with a default); what nobody uses any more is dropped one
release later.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

HEAD = "0005"  # the newest file under versions/; names are numbers, so that they can be compared


def upgrade(connection: Connection) -> None:
    """Run what is missing, within the caller's transaction, which must hold the lock."""
    config = Config()
    # Alembic reads options through configparser, to which a percent sign is special.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def upgrade_if_needed(connection: Connection) -> None:
    """The same, when it is not current."""
    if not is_current(connection):
        upgrade(connection)


def is_current(connection: Connection) -> bool:
    """Whether the database has this version's schema, or a newer one, which serves as well (expand first)."""
    return (version(connection) or "") >= HEAD


def version(connection: Connection) -> str | None:
    """The schema that the database has; None when it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found
