-- $1: a schema. The privileges of our role there.
SELECT
    current_user::text AS role,
    current_database()::text AS database,
    current_setting('server_encoding') AS encoding,
    schema_.oid IS NOT NULL AS schema_exists,
    schema_.oid IS NULL OR has_schema_privilege(schema_.oid, 'USAGE') AS may_use,
    current_setting('transaction_read_only')::boolean AS read_only,
    CASE
        WHEN schema_.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
        ELSE has_schema_privilege(schema_.oid, 'CREATE')
            AND has_schema_privilege(schema_.oid, 'USAGE')
    END AS may_create
FROM (SELECT (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AS oid) AS schema_
