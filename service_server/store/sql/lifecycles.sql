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
-- Concurrent claims return different pipelines.
UPDATE pipesync.lifecycles AS lifecycle
SET due_time = now() + $2
FROM (
    SELECT pipeline_id
    FROM pipesync.lifecycles
    WHERE due_time <= now()
        AND NOT EXISTS (
            SELECT FROM unnest($3::text[]) AS excluded WHERE starts_with(pipeline_id, excluded)
        )
        AND (
            $4::text[] IS NULL
            OR EXISTS (
                SELECT FROM unnest($4::text[]) AS required WHERE starts_with(pipeline_id, required)
            )
        )
    ORDER BY due_time
    LIMIT $1
    FOR UPDATE SKIP LOCKED
) AS due
WHERE lifecycle.pipeline_id = due.pipeline_id
RETURNING lifecycle.pipeline_id, lifecycle.wakes;

-- name: get
SELECT memory, clock_timestamp() AS time FROM pipesync.lifecycles WHERE pipeline_id = $1;

-- name: put
-- After a wake since the claim, or if the claim has lapsed, the next step is due at once.
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
-- Returns no row if none is due without a wake.
SELECT greatest(due_time - now(), interval '0')
FROM pipesync.lifecycles
WHERE due_time < timestamptz 'infinity'
    AND NOT EXISTS (
        SELECT FROM unnest($1::text[]) AS excluded WHERE starts_with(pipeline_id, excluded)
    )
    AND (
        $2::text[] IS NULL
        OR EXISTS (
            SELECT FROM unnest($2::text[]) AS required WHERE starts_with(pipeline_id, required)
        )
    )
ORDER BY due_time
LIMIT 1;
