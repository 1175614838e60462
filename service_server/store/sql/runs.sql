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
SELECT pipeline_id, run_id, status, start_time, end_time, progress, failure_message
FROM pipesync.runs
WHERE pipeline_id = $1
ORDER BY start_time DESC, run_id DESC
LIMIT $2;

-- name: list_after
SELECT pipeline_id, run_id, status, start_time, end_time, progress, failure_message
FROM pipesync.runs
WHERE pipeline_id = $1 AND (start_time, run_id) < ($3, $4)
ORDER BY start_time DESC, run_id DESC
LIMIT $2;

-- name: pipelines_after
SELECT id
FROM pipesync.pipelines
WHERE id > $1
ORDER BY id
LIMIT $2;

-- name: prune
-- By the index of each pipeline's runs; the latest one stays, however old it is.
DELETE FROM pipesync.runs AS run
USING unnest($1::text[]) AS pruned (pipeline_id)
CROSS JOIN LATERAL (
    SELECT run_id
    FROM pipesync.runs
    WHERE pipeline_id = pruned.pipeline_id
      AND start_time < $2
      AND (start_time, run_id) < (
          SELECT latest.start_time, latest.run_id
          FROM pipesync.runs AS latest
          WHERE latest.pipeline_id = pruned.pipeline_id
          ORDER BY latest.start_time DESC, latest.run_id DESC
          LIMIT 1
      )
    ORDER BY start_time DESC, run_id DESC
    LIMIT $3
) AS old
WHERE run.pipeline_id = pruned.pipeline_id AND run.run_id = old.run_id;
