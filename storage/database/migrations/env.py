"""Alembic's entry point: runs on the connection that `storage.database.migrate` hands it."""

from alembic import context

from storage.database.migrate import VERSION_TABLE
from storage.database.tables import declare_partial_indexes, metadata

connection = context.config.attributes["connection"]
declare_partial_indexes(connection.dialect.name)
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    include_name=lambda name, kind, _parents: kind != "table" or (name or "").startswith("hpo_"),
)
with context.begin_transaction():
    context.run_migrations()
