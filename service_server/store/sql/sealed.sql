-- Encrypted values, place by place: a place has the queries NAME_list and NAME_replace.

-- name: configs_list
SELECT id AS key, id AS pipeline_id, sealed_config AS envelope
FROM pipesync.pipelines
WHERE id > $1 AND substring(sealed_config FROM 1 FOR octet_length($2::bytea)) <> $2
ORDER BY id
LIMIT $3;

-- name: configs_replace
UPDATE pipesync.pipelines AS pipeline
SET sealed_config = change.replacement
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS change (key, envelope, replacement)
WHERE pipeline.id = change.key AND pipeline.sealed_config = change.envelope
RETURNING true;

-- name: lock
-- Prevents deadlocks between processes that replace the same rows in different orders.
SELECT pg_advisory_xact_lock($1);
