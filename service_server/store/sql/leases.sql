-- name: acquire
-- A lease that is still held is left alone; then the answer is null. $4: whether events may be applied beside it. The
-- commit waits for the disk, whatever the role's settings say: were a token given out twice, the second holder could not
-- be told from the first.
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
    CASE WHEN lets_events THEN 'SYNC' ELSE 'ALONE' END AS kind
FROM pipesync.leases
WHERE pipeline_id = $1;

-- name: renew
-- Durably: were it forgotten in a crash, another process could take the lease while this one still works under it.
UPDATE pipesync.leases
SET expire_time = greatest(expire_time, clock_timestamp() + $3)
WHERE pipeline_id = $1 AND token = $2
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off'
RETURNING true;

-- name: lock
-- Nobody can take the lease over until the transaction that asks this has ended.
SELECT true
FROM pipesync.leases
WHERE pipeline_id = $1 AND token = $2
FOR SHARE;

-- name: release
-- Without waiting for the disk: were this forgotten in a crash, the lease would expire by itself. Events that waited for
-- its end are told of.
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
