-- name: insert
INSERT INTO pipesync.pipelines
    (id, config, sealed_config, desired_status, status, sync_policy, etag)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING
RETURNING true;

-- name: get
SELECT pipeline.*, latest_run.progress
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
SELECT pipeline.*, latest_run.progress
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

-- name: set_status
UPDATE pipesync.pipelines
SET status = $2, status_message = $3
WHERE id = $1 AND (status, status_message) IS DISTINCT FROM ($2, $3);

-- name: set_status_after_sync
-- That of one that runs by itself is its lifecycle's to say.
UPDATE pipesync.pipelines
SET status = $2, status_message = $3
WHERE id = $1 AND sync_policy <> 2 AND (status, status_message) IS DISTINCT FROM ($2, $3);

-- name: set_desired_status
UPDATE pipesync.pipelines
SET desired_status = $3
WHERE id = $1 AND desired_status = $2;

-- name: delete
DELETE FROM pipesync.pipelines AS pipeline
USING pipesync.leases AS lease
WHERE pipeline.id = $1 AND lease.pipeline_id = pipeline.id AND lease.token = $2
RETURNING true;
