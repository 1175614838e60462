-- name: start
INSERT INTO pipesync.lifecycles (pipeline_id, due_time)
VALUES ($1, now())
ON CONFLICT (pipeline_id) DO UPDATE
SET due_time = now(), wakes = lifecycles.wakes + 1;

-- name: notify
SELECT pg_notify('pipesync_due', '');

-- name: stop
DELETE FROM pipesync.lifecycles WHERE pipeline_id = $1;

-- name: wake
SELECT pipesync.wake($1);

-- name: claim
-- Whoever claims at the same time gets others.
UPDATE pipesync.lifecycles AS lifecycle
SET due_time = now() + $2
FROM (
    SELECT pipeline_id
    FROM pipesync.lifecycles
    WHERE due_time <= now()
    ORDER BY due_time
    LIMIT $1
    FOR UPDATE SKIP LOCKED
) AS due
WHERE lifecycle.pipeline_id = due.pipeline_id
RETURNING lifecycle.pipeline_id, lifecycle.wakes;

-- name: get
SELECT memory, clock_timestamp() AS time FROM pipesync.lifecycles WHERE pipeline_id = $1;

-- name: put
-- What happened since the claim, or after it lapsed, is looked at by a step of its own, at once.
UPDATE pipesync.lifecycles
SET memory = $2,
    due_time = CASE
        WHEN wakes = $3 AND due_time > clock_timestamp()
            THEN coalesce(clock_timestamp() + $4, timestamptz 'infinity')
        ELSE clock_timestamp()
    END
WHERE pipeline_id = $1;

-- name: postpone
UPDATE pipesync.lifecycles
SET due_time = clock_timestamp() + $2
WHERE pipeline_id = $1 AND due_time > clock_timestamp();

-- name: time_to_next
-- No row when none is.
SELECT greatest(due_time - now(), interval '0')
FROM pipesync.lifecycles
WHERE due_time < timestamptz 'infinity'
ORDER BY due_time
LIMIT 1;
