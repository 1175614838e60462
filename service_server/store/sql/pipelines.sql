-- name: insert
INSERT INTO pipesync.pipelines
    (id, config, sealed_config, desired_status, status, sync_policy, etag)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING
RETURNING true;

-- name: get
-- Names the columns: a newer service may add others to the table at any time.
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

-- name: changed_configs
-- Returns the pipelines that exist, each with its configuration unless the known etag is current.
SELECT
    pipeline.id,
    pipeline.etag,
    CASE WHEN pipeline.etag <> known.etag THEN pipeline.sealed_config END AS sealed_config
FROM unnest($1::text[], $2::text[]) AS known (id, etag)
JOIN pipesync.pipelines AS pipeline ON pipeline.id = known.id;

-- name: exists
SELECT true FROM pipesync.pipelines WHERE id = $1;

-- name: list_after
-- $3, $4: range of the ids, without its end. $5: maximum of the total size in bytes; the first pipeline is returned
-- even if it is larger. Sizes are available without reading the values: a configuration as protobuf is about as long as
-- the encrypted one.
SELECT *
FROM (
    SELECT
        pipeline.id,
        pipeline.config,
        pipeline.desired_status,
        pipeline.status,
        pipeline.status_message,
        pipeline.sync_policy,
        pipeline.etag,
        pipeline.create_time,
        pipeline.update_time,
        latest_run.progress,
        row_number() OVER in_order AS place,
        count(*) OVER () AS found,
        sum(
            octet_length(pipeline.sealed_config) + octet_length(pipeline.status_message)
            + coalesce(octet_length(latest_run.progress), 0)
        ) OVER in_order AS bytes
    FROM (
        SELECT *
        FROM pipesync.pipelines
        WHERE id > $1 AND id >= $3 AND id < $4
        ORDER BY id
        LIMIT $2 + 1
    ) AS pipeline
    LEFT JOIN LATERAL (
        SELECT progress
        FROM pipesync.runs
        WHERE pipeline_id = pipeline.id
        ORDER BY start_time DESC, run_id DESC
        LIMIT 1
    ) AS latest_run ON true
    WINDOW in_order AS (ORDER BY pipeline.id ROWS UNBOUNDED PRECEDING)
) AS sized
WHERE place = 1 OR (place <= $2 AND bytes <= $5)
ORDER BY id;

-- name: update
-- $5: null keeps the desired status, which a deletion changes without a new etag.
UPDATE pipesync.pipelines
SET config = $3,
    sealed_config = $4,
    desired_status = coalesce($5, desired_status),
    sync_policy = $6,
    etag = $7,
    update_time = now()
WHERE id = $1 AND etag = $2
RETURNING etag;

-- name: update_desired_state
-- Leaves the configuration unchanged, which a key rotation may be replacing now. $3: as $5 of update.
UPDATE pipesync.pipelines
SET desired_status = coalesce($3, desired_status),
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
-- The lifecycle sets the status of a continuous pipeline.
UPDATE pipesync.pipelines
SET status = $2, status_message = $3
WHERE id = $1 AND sync_policy <> 2 AND (status, status_message) IS DISTINCT FROM ($2, $3);

-- name: set_held_rejected
-- $3: whether the count is exact, or else a minimum.
UPDATE pipesync.pipelines
SET held_rejected_record_count =
    CASE WHEN $3 THEN $2 ELSE greatest($2, held_rejected_record_count) END
WHERE id = $1
    AND held_rejected_record_count
        <> CASE WHEN $3 THEN $2 ELSE greatest($2, held_rejected_record_count) END;

-- name: set_torn_down
-- The commit waits for the disk, because a setup is answered after it.
UPDATE pipesync.pipelines
SET is_torn_down = $2
WHERE id = $1 AND is_torn_down <> $2
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off';

-- name: all_held_rejected
SELECT coalesce(sum(held_rejected_record_count), 0)::bigint
FROM pipesync.pipelines
WHERE held_rejected_record_count > 0;

-- name: lock
-- Prevents changes by other transactions until this one ends, but not new references from other tables.
SELECT desired_status, etag
FROM pipesync.pipelines
WHERE id = $1
FOR NO KEY UPDATE;

-- name: deleter
-- Runs as a separate statement after lock: a statement that waited for the lock would not see a lease that was taken
-- meanwhile.
SELECT lease.holder
FROM pipesync.pipelines AS pipeline
JOIN pipesync.leases AS lease ON lease.pipeline_id = pipeline.id AND lease.token = pipeline.deletion_token
WHERE pipeline.id = $1 AND pipeline.desired_status = 3 AND lease.expire_time > clock_timestamp();

-- name: mark_deleted
UPDATE pipesync.pipelines
SET desired_status = 3, desired_status_before_deletion = desired_status, deletion_token = NULL
WHERE id = $1 AND desired_status <> 3
RETURNING true;

-- name: begin_deletion
UPDATE pipesync.pipelines
SET deletion_token = $2
WHERE id = $1 AND desired_status = 3;

-- name: unmark_deleted
-- $2: token of the deletion to undo; null for any.
UPDATE pipesync.pipelines
SET desired_status = coalesce(desired_status_before_deletion, desired_status), deletion_token = NULL
WHERE id = $1 AND desired_status = 3 AND ($2::bigint IS NULL OR deletion_token = $2);

-- name: delete
-- Locks the lease, so that it is not taken over meanwhile.
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
