-- name: acquire
-- Returns null while this lease or an exclusive one is held. The commit waits for the disk, as for the other kinds.
SELECT pipesync.acquire_applier_lease($1, $2, $3)
WHERE (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
    ELSE current_setting('synchronous_commit') END, true)) <> 'off';

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
    AND (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off'
RETURNING true;

-- name: lock
-- As in leases.sql.
SELECT true
FROM pipesync.applier_leases
WHERE pipeline_id = $1 AND token = $2
FOR SHARE;

-- name: release
-- As in leases.sql.
DELETE FROM pipesync.applier_leases
WHERE pipeline_id = $1 AND token = $2 AND set_config('synchronous_commit', 'off', true) = 'off';
