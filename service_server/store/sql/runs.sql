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
-- $3: maximum of the total size in bytes; the first run is returned even if it is larger.
SELECT *
FROM (
    SELECT
        *,
        row_number() OVER in_order AS place,
        count(*) OVER () AS found,
        sum(octet_length(progress) + octet_length(failure_message)) OVER in_order AS bytes
    FROM (
        SELECT pipeline_id, run_id, status, start_time, end_time, progress, failure_message
        FROM pipesync.runs
        WHERE pipeline_id = $1
        ORDER BY start_time DESC, run_id DESC
        LIMIT $2 + 1
    ) AS run
    WINDOW in_order AS (ORDER BY start_time DESC, run_id DESC ROWS UNBOUNDED PRECEDING)
) AS sized
WHERE place = 1 OR (place <= $2 AND bytes <= $3)
ORDER BY start_time DESC, run_id DESC;

-- name: list_after
SELECT *
FROM (
    SELECT
        *,
        row_number() OVER in_order AS place,
        count(*) OVER () AS found,
        sum(octet_length(progress) + octet_length(failure_message)) OVER in_order AS bytes
    FROM (
        SELECT pipeline_id, run_id, status, start_time, end_time, progress, failure_message
        FROM pipesync.runs
        WHERE pipeline_id = $1 AND (start_time, run_id) < ($4, $5)
        ORDER BY start_time DESC, run_id DESC
        LIMIT $2 + 1
    ) AS run
    WINDOW in_order AS (ORDER BY start_time DESC, run_id DESC ROWS UNBOUNDED PRECEDING)
) AS sized
WHERE place = 1 OR (place <= $2 AND bytes <= $3)
ORDER BY start_time DESC, run_id DESC;

-- name: pipelines_after
SELECT id
FROM pipesync.pipelines
WHERE id > $1
ORDER BY id
LIMIT $2;

-- name: prune
-- Uses the index of each pipeline's runs; the latest run stays regardless of its age.
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
