-- Keeps rejected records of one stream. $1: their digests; $2 to $8: the other columns of each. $2: keys, a JSON array
-- each. Returns the digests of the kept records; one that is older than its row or its entry is not kept.
INSERT INTO {rejected} AS entry (
    stream, digest, key, _account_id, _updated_at, deleted, record, sqlstate, reason, first_time, last_time, attempts
)
SELECT {stream}, digest, key, account_id, to_timestamp(updated_at), deleted, record, sqlstate, reason, now(), now(), 1
FROM (
    SELECT
        given.*,
        CASE WHEN json_key IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(json_key::json)) END AS key
    FROM unnest(
        $1::text[]::bytea[],
        $2::text[],
        $3::text[],
        $4::text[]::double precision[],
        $5::text[]::boolean[],
        $6::text[]::bytea[],
        $7::text[],
        $8::text[]
    ) AS given (digest, json_key, account_id, updated_at, deleted, record, sqlstate, reason)
) AS given
WHERE NOT EXISTS (
    SELECT
    FROM {table} AS stored
    WHERE {stored_is_given}
        AND to_timestamp(given.updated_at) < stored._updated_at
)
{given_is_not_deleted}
ON CONFLICT (stream, digest) DO UPDATE SET
    key = excluded.key,
    _account_id = excluded._account_id,
    _updated_at = excluded._updated_at,
    deleted = excluded.deleted,
    record = excluded.record,
    sqlstate = excluded.sqlstate,
    reason = excluded.reason,
    last_time = excluded.last_time,
    attempts = entry.attempts + 1
WHERE (excluded._updated_at < entry._updated_at) IS NOT TRUE
    AND NOT (entry.deleted AND NOT excluded.deleted AND (excluded._updated_at = entry._updated_at) IS TRUE)
RETURNING entry.digest
