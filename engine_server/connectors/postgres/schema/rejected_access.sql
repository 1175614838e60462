-- $1: a schema. $2: a table. No row when there is no such table; else the privileges of our role and the state of the primary key.
SELECT
    has_table_privilege(table_.oid, 'SELECT')
    AND has_table_privilege(table_.oid, 'INSERT')
    AND has_table_privilege(table_.oid, 'UPDATE')
    AND has_table_privilege(table_.oid, 'DELETE')
    -- Row security must show our role every row, and accept any.
    AND (
        NOT row_security_active(table_.oid)
        OR (
            SELECT
                bool_or(
                    policy.polpermissive
                    AND policy.polcmd = '*'
                    AND pg_get_expr(policy.polqual, policy.polrelid) = 'true'
                    AND coalesce(pg_get_expr(policy.polwithcheck, policy.polrelid), 'true') = 'true'
                )
                AND bool_and(policy.polpermissive)
            FROM pg_catalog.pg_policy AS policy
            WHERE policy.polrelid = table_.oid
                AND EXISTS (
                    SELECT
                    FROM unnest(policy.polroles) AS role
                    WHERE role = 0 OR pg_has_role(role, 'USAGE')
                )
        ) IS TRUE
    ) AS may_use,
    {has_key} AS has_key,
    pg_has_role(table_.relowner, 'USAGE') AND has_schema_privilege(schema_.oid, 'CREATE') AS may_add_key
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
WHERE schema_.nspname = $1
    AND table_.relname = $2
