-- Writes one batch of one stream. $1: the records, one JSON object each, in the order of arrival.
WITH incoming AS (
    SELECT
        {key_values},
        record ->> '_account_id' AS account_id,
        {updated_at} AS updated_at,
        {is_deleted_record} AS deleted,
        -- The stamps become columns, so that a later stamp alone changes nothing.
        record - ARRAY['_account_id', '_updated_at'] AS raw_data,
        position
    FROM unnest($1::jsonb[]) WITH ORDINALITY AS batch (record, position)
),
-- Of several records of one row the newest, of equally new ones the last. Sorted by key, so that two
-- transactions lock rows in the same order.
newest AS (
    SELECT DISTINCT ON ({key_order}) *
    FROM incoming
    ORDER BY {key_order}, updated_at DESC, position DESC
),
-- A row that stays as it is is not even locked.
changed AS (
    SELECT newest.*, merged.raw_data AS merged_raw_data
    FROM newest
    -- LIMIT has each row looked up by its key: a plain join may read the whole table for each batch.
    LEFT JOIN LATERAL (
        SELECT stored._raw_data, stored._updated_at
        FROM {table} AS stored
        WHERE {stored_is_newest}
        LIMIT 1
    ) AS stored ON true
    CROSS JOIN LATERAL (
        SELECT CASE
            -- What says that an object is deleted says little else of it: keep what is known.
            WHEN newest.deleted AND NOT {hard_delete} THEN
                coalesce(
                    (
                        SELECT incoming.raw_data
                        FROM incoming
                        WHERE {incoming_is_newest}
                            AND NOT incoming.deleted
                            AND incoming.position < newest.position
                            AND (incoming.updated_at < stored._updated_at) IS NOT TRUE
                        ORDER BY incoming.updated_at DESC, incoming.position DESC
                        LIMIT 1
                    ),
                    stored._raw_data,
                    jsonb_build_object()
                )
                || newest.raw_data
            ELSE newest.raw_data
        END AS raw_data
    ) AS merged
    WHERE NOT (newest.deleted AND {hard_delete})
        AND (newest.updated_at < stored._updated_at) IS NOT TRUE
        AND merged.raw_data IS DISTINCT FROM stored._raw_data
),
written AS (
    INSERT INTO {table} AS stored ({columns})
    SELECT {values}, merged_raw_data, updated_at, now()
    FROM changed
    -- Rows written by others since this statement began follow the same rules.
    ON CONFLICT ({key}) DO UPDATE SET
        {set_account_id}
        -- A deletion was merged with the row as it was when the statement began.
        _raw_data = CASE
            WHEN {is_deleted_excluded} AND stored._raw_data IS DISTINCT FROM (
                SELECT seen._raw_data FROM {table} AS seen WHERE {seen_is_excluded} LIMIT 1
            )
            THEN stored._raw_data
                || (SELECT newest.raw_data FROM newest WHERE {newest_is_excluded})
            ELSE excluded._raw_data
        END,
        _updated_at = excluded._updated_at,
        _last_synced_at = excluded._last_synced_at
    WHERE (excluded._updated_at < stored._updated_at) IS NOT TRUE
        AND excluded._raw_data IS DISTINCT FROM stored._raw_data
    -- Only a row that was updated has been locked by someone.
    RETURNING stored.xmax = 0 AS inserted, {is_deleted_stored} AS deleted
),
removed AS (
    DELETE FROM {table} AS stored
    USING newest
    WHERE {hard_delete}
        AND newest.deleted
        AND {stored_is_newest}
        AND (newest.updated_at < stored._updated_at) IS NOT TRUE
    RETURNING 1
)
SELECT
    count(*) FILTER (WHERE inserted AND NOT deleted) AS inserted,
    count(*) FILTER (WHERE NOT inserted AND NOT deleted) AS updated,
    count(*) FILTER (WHERE deleted) + (SELECT count(*) FROM removed) AS deleted
FROM written
