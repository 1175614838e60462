-- Writes one batch of one stream, in the order of arrival. $1: the records, JSON objects in UTF-8.
-- $2, $3: the _account_id and _updated_at that were extracted from each, or empty texts. The values of
-- $1 to $3 are joined by the separator of https://www.rfc-editor.org/rfc/rfc7464, which JSON cannot
-- contain. $4: whether the records are change events, so that a later _updated_at alone is written.
WITH incoming AS (
    SELECT
        {key_values},
        {account_id} AS account_id,
        {updated_at} AS updated_at,
        {is_deleted_record} AS deleted,
        -- The metadata becomes columns, so that a later time alone changes nothing. Removing it copies
        -- the whole record, field by field.
        CASE WHEN record ?| ARRAY['_account_id', '_updated_at']
            THEN record - ARRAY['_account_id', '_updated_at']
            ELSE record
        END AS raw_data,
        position
    FROM (
        -- One by one: the memory that parsing takes is freed after each.
        SELECT
            text::jsonb AS record,
            account_id AS extracted_account_id,
            updated_at AS extracted_updated_at,
            position
        -- Not an array: drivers encode arrays by element, which costs more than the rest of sending.
        FROM ROWS FROM (
            string_to_table(convert_from($1::bytea, 'UTF8'), E'\x1e'),
            string_to_table($2::text, E'\x1e', ''),
            string_to_table($3::text, E'\x1e', '')
        ) WITH ORDINALITY AS batch (text, account_id, updated_at, position)
        -- An optimization fence: each record is parsed once, not once for each use.
        OFFSET 0
    ) AS parsed
),
-- Of several records of one row the newest; of equally new records a deletion, else the last. Sorted by
-- key, so that two transactions lock rows in the same order.
newest AS (
    SELECT DISTINCT ON ({key_order}) *
    FROM incoming
    ORDER BY {key_order}, updated_at DESC{deleted_first}, position DESC
),
-- A row that stays as it is is not locked.
changed AS (
    SELECT newest.*, merged.raw_data AS merged_raw_data
    FROM newest
    -- LIMIT forces a lookup by key: a plain join may read the whole table for each batch.
    LEFT JOIN LATERAL (
        SELECT stored._raw_data, stored._updated_at
        FROM {table} AS stored
        WHERE {stored_is_newest}
        LIMIT 1
    ) AS stored ON true
    CROSS JOIN LATERAL (
        SELECT
            {merged} AS raw_data
    ) AS merged
    WHERE NOT (newest.deleted AND {removes})
        AND (newest.updated_at < stored._updated_at) IS NOT TRUE
        {newest_is_not_deleted}
        AND (
            merged.raw_data IS DISTINCT FROM stored._raw_data
            OR ($4::boolean AND newest.updated_at > stored._updated_at)
        )
),
written AS (
    INSERT INTO {table} AS stored ({columns})
    SELECT {values}, merged_raw_data, updated_at, now()
    FROM changed
    -- Rows written by others since this statement began follow the same rules.
    ON CONFLICT ({key}) DO UPDATE SET
        {set_account_id}
        _raw_data =
            {merged_again},
        _updated_at = excluded._updated_at,
        _last_synced_at = excluded._last_synced_at
    WHERE (excluded._updated_at < stored._updated_at) IS NOT TRUE
        {excluded_is_not_deleted}
        AND (
            excluded._raw_data IS DISTINCT FROM stored._raw_data
            OR ($4::boolean AND excluded._updated_at > stored._updated_at)
        )
    -- xmax is 0 for inserted rows only: an update has locked its row.
    RETURNING stored.xmax = 0 AS inserted, {is_deleted_stored} AS deleted
)
{removed}
SELECT
    count(*) FILTER (WHERE inserted AND NOT deleted) AS inserted,
    count(*) FILTER (WHERE NOT inserted AND NOT deleted) AS updated,
    count(*) FILTER (WHERE deleted) + {removed_count} AS deleted
FROM written
