-- $1: a schema. $2: a table. $3: an index. Whether the index is ready, or being created; no row without the table.
SELECT
    index_.indisvalid IS TRUE AS is_ready,
    index_.indexrelid IS NOT NULL AS is_there,
    EXISTS (
        SELECT
        FROM pg_catalog.pg_stat_progress_create_index AS making
        WHERE making.index_relid = index_.indexrelid
    ) AS is_being_made
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
LEFT JOIN (
    pg_catalog.pg_index AS index_
    JOIN pg_catalog.pg_class AS index_class ON index_class.oid = index_.indexrelid
) ON index_.indrelid = table_.oid AND index_class.relname = $3
WHERE schema_.nspname = $1
    AND table_.relname = $2
