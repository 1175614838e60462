-- $1: a schema. $2: a table. $3: an index. Whether the table has the index, and the size of its rows in bytes.
SELECT
    EXISTS (
        SELECT
        FROM pg_catalog.pg_index AS index_
        JOIN pg_catalog.pg_class AS index_class ON index_class.oid = index_.indexrelid
        WHERE index_.indrelid = table_.oid
            AND index_class.relname = $3
            AND index_.indisvalid
    ) AS is_there,
    pg_catalog.pg_relation_size(table_.oid) AS table_bytes
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
WHERE schema_.nspname = $1
    AND table_.relname = $2
