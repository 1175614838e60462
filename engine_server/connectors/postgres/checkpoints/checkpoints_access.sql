-- $1: a schema. $2: a table. What our role may do with it, and whether it may make one.
SELECT
    current_user::text AS role,
    (
        SELECT
            has_table_privilege(table_.oid, 'SELECT')
            AND has_table_privilege(table_.oid, 'INSERT')
            AND has_table_privilege(table_.oid, 'UPDATE')
            AND has_table_privilege(table_.oid, 'DELETE')
        FROM pg_catalog.pg_class AS table_
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1
            AND table_.relname = $2
    ) AS is_usable,
    coalesce(
        (
            SELECT has_schema_privilege(schema_.oid, 'CREATE')
            FROM pg_catalog.pg_namespace AS schema_
            WHERE schema_.nspname = $1
        ),
        has_database_privilege(current_database(), 'CREATE')
    ) AS may_create
