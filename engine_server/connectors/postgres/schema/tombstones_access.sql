-- $1: a schema. $2: a table. No row when there is no such table; else the state of its primary key.
SELECT
    {has_key} AS has_key,
    pg_has_role(table_.relowner, 'USAGE') AND has_schema_privilege(schema_.oid, 'CREATE') AS may_add_key
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
WHERE schema_.nspname = $1
    AND table_.relname = $2
