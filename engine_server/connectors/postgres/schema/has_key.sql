-- $1: a schema. $2: an internal table. Whether it has its primary key, or an equivalent unique index.
EXISTS (
    SELECT
    FROM pg_catalog.pg_index AS index_
    JOIN pg_catalog.pg_class AS indexed ON indexed.oid = index_.indrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = indexed.relnamespace
    WHERE namespace.nspname = $1
        AND indexed.relname = $2
        AND index_.indisunique
        AND index_.indisvalid
        AND index_.indimmediate
        AND index_.indpred IS NULL
        AND index_.indnkeyatts = cardinality({columns})
        AND (
            SELECT array_agg(attribute.attname::text ORDER BY attribute.attname)
            FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = indexed.oid
                AND attribute.attnum = ANY((index_.indkey::smallint[])[0:index_.indnkeyatts - 1])
        ) = {columns}
)
