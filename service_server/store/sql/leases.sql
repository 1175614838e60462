-- name: acquire
-- Returns null while the lease is held. $4: whether events may be applied meanwhile. The commit waits for the disk
-- under every setting of the role: if a crash lost it, the same token could have two holders.
SELECT pipesync.acquire_lease($1, $2, $3, $4)
WHERE (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
    ELSE current_setting('synchronous_commit') END, true)) <> 'off';

-- name: get
SELECT
    holder,
    acquire_time,
    greatest(expire_time - clock_timestamp(), interval '0') AS time_left,
    is_brief,
    token,
    CASE WHEN lets_events THEN 'SYNC' ELSE 'EXCLUSIVE' END AS kind
FROM pipesync.leases
WHERE pipeline_id = $1;

-- name: renew
-- The commit waits for the disk: if a crash lost it, another process could take the lease while this one still uses it.
UPDATE pipesync.leases
SET expire_time = greatest(expire_time, clock_timestamp() + $3)
WHERE pipeline_id = $1 AND token = $2
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off'
RETURNING true;

-- name: lock
-- Prevents a takeover of the lease until the transaction ends.
SELECT true
FROM pipesync.leases
WHERE pipeline_id = $1 AND token = $2
FOR SHARE;

-- name: release
-- The commit does not wait for the disk: if a crash lost it, the lease would still expire. Notifies of events that
-- waited for the end of the lease.
WITH released AS (
    DELETE FROM pipesync.leases
    WHERE pipeline_id = $1 AND token = $2 AND set_config('synchronous_commit', 'off', true) = 'off'
    RETURNING pipeline_id
)
SELECT pg_notify('pipesync_webhook_events', pipeline_id)
FROM released
WHERE EXISTS (
    SELECT FROM pipesync.events_to_repeat AS again WHERE again.pipeline_id = released.pipeline_id
);
