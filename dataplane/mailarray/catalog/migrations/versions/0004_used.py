"""How many bytes each mailbox holds, for quotas. Only adds.

Nothing is counted here, since that would take minutes while nobody could register: NULL says that it was not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that processes which do not know it leave alone."""
    op.add_column("mailboxes", sa.Column("used", sa.BigInteger))
