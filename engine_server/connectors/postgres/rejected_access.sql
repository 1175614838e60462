-- $1: a schema. $2: a table. No row when there is no such table; else whether our role may do in it what a sync does.
SELECT
    has_table_privilege(table_.oid, 'SELECT')
    AND has_table_privilege(table_.oid, 'INSERT')
    AND has_table_privilege(table_.oid, 'UPDATE')
    AND has_table_privilege(table_.oid, 'DELETE') AS is_usable
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
WHERE schema_.nspname = $1
    AND table_.relname = $2
