-- $1: tables. Returns those where a policy may hide a row from our role.
SELECT table_.oid
FROM unnest($1::oid[]) AS table_ (oid)
LEFT JOIN LATERAL (
    SELECT
        bool_or(policy.polpermissive AND expression.text = 'true') AS shows_all,
        bool_or(NOT policy.polpermissive AND expression.text IS DISTINCT FROM 'true') AS hides
    FROM pg_catalog.pg_policy AS policy
    CROSS JOIN LATERAL (SELECT pg_get_expr(policy.polqual, policy.polrelid) AS text) AS expression
    WHERE policy.polrelid = table_.oid
        AND policy.polcmd IN ('*', 'r')
        AND EXISTS (SELECT FROM unnest(policy.polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE'))
) AS policies ON true
WHERE shows_all IS NOT TRUE OR hides
