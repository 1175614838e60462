-- $1: a schema. $2: table names. Returns the privileges of our role on those that exist. It waits for no lock.
WITH held AS (
    SELECT DISTINCT relation
    FROM pg_catalog.pg_locks
    WHERE locktype = 'relation'
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND granted
        AND pid <> pg_backend_pid()
        -- The modes that an INSERT waits for.
        AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
)
SELECT
    table_.relname AS name,
    table_.oid AS oid,
    array_remove(
        ARRAY[
            -- A role may have been granted all columns one by one.
            CASE WHEN NOT has_any_column_privilege(table_.oid, 'SELECT') THEN 'SELECT' END,
            CASE WHEN NOT has_any_column_privilege(table_.oid, 'INSERT') THEN 'INSERT' END,
            CASE WHEN NOT has_any_column_privilege(table_.oid, 'UPDATE') THEN 'UPDATE' END,
            CASE WHEN NOT has_table_privilege(table_.oid, 'DELETE') THEN 'DELETE' END
        ],
        NULL
    ) AS missing,
    -- False for an owner without FORCE, and for a role with BYPASSRLS.
    row_security_active(table_.oid) AS has_row_security,
    ARRAY(
        SELECT policy.polname::text
        FROM pg_catalog.pg_policy AS policy
        WHERE policy.polrelid = table_.oid
            AND EXISTS (
                SELECT
                FROM unnest(policy.polroles) AS role
                WHERE role = 0 OR pg_has_role(role, 'USAGE')
            )
        ORDER BY 1
    ) AS policies,
    greatest(table_.reltuples, pg_stat_get_live_tuples(table_.oid)) > 0 AS has_rows,
    held.relation IS NOT NULL AS is_locked
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
LEFT JOIN held ON held.relation = table_.oid
WHERE schema_.nspname = $1
    AND table_.relname = ANY($2::text[])
