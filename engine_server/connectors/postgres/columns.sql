-- $1: a schema. $2: table names. Those that exist, each with its columns.
SELECT
    table_.relname AS name,
    array_agg(attribute.attname::text) AS columns
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = table_.oid
WHERE schema_.nspname = $1
    AND table_.relname = ANY($2::text[])
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
GROUP BY table_.relname
