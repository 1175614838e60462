-- $1: a schema. $2: a table. The privileges of our role on it, and whether our role may create it.
SELECT
    current_user::text AS role,
    coalesce(
        (
            SELECT row_security_active(table_.oid)
            FROM pg_catalog.pg_class AS table_
            JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
            WHERE schema_.nspname = $1
                AND table_.relname = $2
        ),
        false
    ) AS has_row_security,
    (
        SELECT
            has_table_privilege(table_.oid, 'SELECT')
            AND has_table_privilege(table_.oid, 'INSERT')
            AND has_table_privilege(table_.oid, 'UPDATE')
            AND has_table_privilege(table_.oid, 'DELETE')
            -- Row security must show our role every entry, and accept any.
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
            )
        FROM pg_catalog.pg_class AS table_
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1
            AND table_.relname = $2
    ) AS may_use,
    -- False for a table that pg_restore --table restored: it has no primary key.
    {has_key} AS has_key,
    coalesce(
        (
            SELECT has_schema_privilege(schema_.oid, 'CREATE')
            FROM pg_catalog.pg_namespace AS schema_
            WHERE schema_.nspname = $1
        ),
        has_database_privilege(current_database(), 'CREATE')
    ) AS may_create
