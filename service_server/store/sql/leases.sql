-- name: acquire
-- A lease that is still held is left alone; then no row is returned. The commit waits for the disk, whatever the role's
-- settings say: were a token given out twice, the second holder could not be told from the first.
INSERT INTO pipesync.leases AS held
    (pipeline_id, token, holder, acquire_time, expire_time, is_brief)
SELECT id, nextval('pipesync.fencing_tokens'), $2, clock_timestamp(), clock_timestamp() + $3, $4
FROM pipesync.pipelines
WHERE id = $1
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off'
ON CONFLICT (pipeline_id) DO UPDATE
SET token = excluded.token,
    holder = excluded.holder,
    acquire_time = excluded.acquire_time,
    expire_time = excluded.expire_time,
    is_brief = excluded.is_brief
WHERE held.expire_time <= clock_timestamp()
RETURNING token;

-- name: get
SELECT
    holder,
    acquire_time,
    greatest(expire_time - clock_timestamp(), interval '0') AS time_left,
    is_brief
FROM pipesync.leases
WHERE pipeline_id = $1;

-- name: renew
UPDATE pipesync.leases
SET expire_time = greatest(expire_time, clock_timestamp() + $3)
WHERE pipeline_id = $1 AND token = $2
RETURNING true;

-- name: lock
-- Nobody can take the lease over until the transaction that asks this has ended.
SELECT true
FROM pipesync.leases
WHERE pipeline_id = $1 AND token = $2
FOR SHARE;

-- name: release
-- Without waiting for the disk: were this forgotten in a crash, the lease would expire by itself.
DELETE FROM pipesync.leases
WHERE pipeline_id = $1 AND token = $2 AND set_config('synchronous_commit', 'off', true) = 'off';
