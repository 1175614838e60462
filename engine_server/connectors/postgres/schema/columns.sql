-- $1: a schema. $2: table names. Returns those that exist, with their columns and primary keys.
SELECT
    table_.relname AS name,
    array_agg(attribute.attname::text) AS columns,
    array_agg(format_type(attribute.atttypid, attribute.atttypmod)) AS types,
    coalesce(array_agg(attribute.attname::text) FILTER (WHERE attribute.attgenerated <> ''), '{}') AS generated,
    -- Virtual columns whose expression has no CASE; changing them costs nothing. The expression is read as
    -- stored, because pg_get_expr() would wait for a lock on the table.
    coalesce(
        array_agg(attribute.attname::text) FILTER (
            WHERE attribute.attgenerated::text = 'v'
                AND EXISTS (
                    SELECT
                    FROM pg_catalog.pg_attrdef AS expression
                    WHERE expression.adrelid = attribute.attrelid
                        AND expression.adnum = attribute.attnum
                        AND expression.adbin::text NOT LIKE '%{CASE%'
                )
        ),
        '{}'
    ) AS unconditional,
    ARRAY(
        SELECT key_attribute.attname::text
        FROM pg_catalog.pg_index AS key
        JOIN pg_catalog.pg_attribute AS key_attribute
            ON key_attribute.attrelid = key.indrelid
            AND key_attribute.attnum = ANY(key.indkey::smallint[])
        WHERE key.indrelid = table_.oid
            AND key.indisprimary
    ) AS key
FROM pg_catalog.pg_class AS table_
JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = table_.oid
WHERE schema_.nspname = $1
    AND table_.relname = ANY($2::text[])
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
GROUP BY table_.oid, table_.relname
