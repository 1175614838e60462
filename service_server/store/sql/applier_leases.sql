-- name: acquire
-- Null while the lease is held, or one of another kind that is to be alone.
SELECT pipesync.acquire_applier_lease($1, $2, $3);

-- name: get
SELECT
    holder,
    acquire_time,
    greatest(expire_time - clock_timestamp(), interval '0') AS time_left,
    true AS is_brief,
    token,
    'EVENTS' AS kind
FROM pipesync.applier_leases
WHERE pipeline_id = $1;

-- name: renew
UPDATE pipesync.applier_leases
SET expire_time = greatest(expire_time, clock_timestamp() + $3)
WHERE pipeline_id = $1 AND token = $2
RETURNING true;

-- name: lock
-- As for the lease of a sync.
SELECT true
FROM pipesync.applier_leases
WHERE pipeline_id = $1 AND token = $2
FOR SHARE;

-- name: release
-- As for the lease of a sync.
DELETE FROM pipesync.applier_leases
WHERE pipeline_id = $1 AND token = $2 AND set_config('synchronous_commit', 'off', true) = 'off';
