-- $1: a schema. Whether it exists and nothing depends on it: no table, type, function or other object.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)
    AND NOT EXISTS (
        SELECT
        FROM pg_catalog.pg_depend
        WHERE refclassid = 'pg_catalog.pg_namespace'::regclass
            AND refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)
    )
