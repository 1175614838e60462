-- $1: a schema. Whether it exists, belongs to our role, and is empty: no table, type, function or other object in it.
SELECT EXISTS (
    SELECT
    FROM pg_catalog.pg_namespace AS schema_
    WHERE schema_.nspname = $1
        AND pg_has_role(schema_.nspowner, 'USAGE')
        AND NOT EXISTS (
            SELECT
            FROM pg_catalog.pg_depend
            WHERE refclassid = 'pg_catalog.pg_namespace'::regclass
                AND refobjid = schema_.oid
        )
)
