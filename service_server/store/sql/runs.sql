-- name: put
INSERT INTO pipesync.runs
    (pipeline_id, run_id, status, start_time, end_time, progress, failure_message)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (pipeline_id, run_id) DO UPDATE
SET status = excluded.status,
    end_time = excluded.end_time,
    progress = excluded.progress,
    failure_message = excluded.failure_message;

-- name: list_first
SELECT *
FROM pipesync.runs
WHERE pipeline_id = $1
ORDER BY start_time DESC, run_id DESC
LIMIT $2;

-- name: list_after
SELECT *
FROM pipesync.runs
WHERE pipeline_id = $1 AND (start_time, run_id) < ($3, $4)
ORDER BY start_time DESC, run_id DESC
LIMIT $2;
