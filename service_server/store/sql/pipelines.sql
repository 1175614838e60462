-- name: insert
INSERT INTO pipesync.pipelines
    (id, config, sealed_config, desired_status, status, sync_policy, etag)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING
RETURNING true;

-- name: get
-- Its columns by name: a newer service may add others to the table at any time.
SELECT
    pipeline.id,
    pipeline.config,
    pipeline.sealed_config,
    pipeline.desired_status,
    pipeline.status,
    pipeline.status_message,
    pipeline.sync_policy,
    pipeline.etag,
    pipeline.create_time,
    pipeline.update_time,
    pipeline.held_rejected_record_count,
    pipeline.is_torn_down,
    latest_run.progress
FROM pipesync.pipelines AS pipeline
LEFT JOIN LATERAL (
    SELECT progress
    FROM pipesync.runs
    WHERE pipeline_id = pipeline.id
    ORDER BY start_time DESC, run_id DESC
    LIMIT 1
) AS latest_run ON true
WHERE id = $1;

-- name: exists
SELECT true FROM pipesync.pipelines WHERE id = $1;

-- name: list_after
SELECT
    pipeline.id,
    pipeline.config,
    pipeline.sealed_config,
    pipeline.desired_status,
    pipeline.status,
    pipeline.status_message,
    pipeline.sync_policy,
    pipeline.etag,
    pipeline.create_time,
    pipeline.update_time,
    pipeline.held_rejected_record_count,
    pipeline.is_torn_down,
    latest_run.progress
FROM (
    SELECT *
    FROM pipesync.pipelines
    WHERE id > $1
    ORDER BY id
    LIMIT $2
) AS pipeline
LEFT JOIN LATERAL (
    SELECT progress
    FROM pipesync.runs
    WHERE pipeline_id = pipeline.id
    ORDER BY start_time DESC, run_id DESC
    LIMIT 1
) AS latest_run ON true
ORDER BY id;

-- name: update
UPDATE pipesync.pipelines
SET config = $3,
    sealed_config = $4,
    desired_status = $5,
    sync_policy = $6,
    etag = $7,
    update_time = now()
WHERE id = $1 AND etag = $2
RETURNING etag;

-- name: update_wishes
-- Leaves the configuration alone, which may be encrypted anew at this moment.
UPDATE pipesync.pipelines
SET desired_status = $3,
    sync_policy = $4,
    etag = $5,
    update_time = now()
WHERE id = $1 AND etag = $2
RETURNING true;

-- name: set_status
UPDATE pipesync.pipelines
SET status = $2, status_message = $3
WHERE id = $1 AND (status, status_message) IS DISTINCT FROM ($2, $3);

-- name: set_status_after_sync
-- That of one that runs by itself is its lifecycle's to say.
UPDATE pipesync.pipelines
SET status = $2, status_message = $3
WHERE id = $1 AND sync_policy <> 2 AND (status, status_message) IS DISTINCT FROM ($2, $3);

-- name: set_held_rejected
-- $3: whether the count is exact; else there are so many at least.
UPDATE pipesync.pipelines
SET held_rejected_record_count =
    CASE WHEN $3 THEN $2 ELSE greatest($2, held_rejected_record_count) END
WHERE id = $1
    AND held_rejected_record_count
        <> CASE WHEN $3 THEN $2 ELSE greatest($2, held_rejected_record_count) END;

-- name: set_torn_down
-- Durably: setup is answered after it.
UPDATE pipesync.pipelines
SET is_torn_down = $2
WHERE id = $1 AND is_torn_down <> $2
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off';

-- name: all_held_rejected
SELECT coalesce(sum(held_rejected_record_count), 0)::bigint
FROM pipesync.pipelines
WHERE held_rejected_record_count > 0;

-- name: set_desired_status
UPDATE pipesync.pipelines
SET desired_status = $3
WHERE id = $1 AND desired_status = $2;

-- name: delete
-- Locked, so that nobody takes the lease over while this goes on.
WITH held AS (
    SELECT pipeline_id
    FROM pipesync.leases
    WHERE pipeline_id = $1 AND token = $2
    FOR SHARE
)
DELETE FROM pipesync.pipelines AS pipeline
USING held
WHERE pipeline.id = held.pipeline_id
RETURNING true;
