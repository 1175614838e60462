-- name: insert
-- Numbers events in the order of their arrival, but inserts them in the order of their key, so that two services that
-- store the same events at once do not deadlock. Locks the pipelines, so that none is deleted before its events are
-- stored. The commit waits for the disk under every setting of the role, because stored events are acknowledged.
WITH arrived AS MATERIALIZED (
    SELECT nextval('pipesync.webhook_arrivals') AS arrival, sent.*
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[])
        AS sent (pipeline_id, etag, event_id, event_type, create_time, event)
    WHERE (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
        ELSE current_setting('synchronous_commit') END, true)) <> 'off'
),
known AS MATERIALIZED (
    SELECT id, etag, sync_policy
    FROM pipesync.pipelines
    WHERE id = ANY($1)
    ORDER BY id
    FOR KEY SHARE
),
stored AS (
    INSERT INTO pipesync.webhook_events
        (pipeline_id, event_id, arrival, event_type, create_time, event)
    SELECT pipeline_id, event_id, arrival, event_type, create_time, event
    FROM arrived
    JOIN known ON known.id = arrived.pipeline_id AND known.etag = arrived.etag
    ORDER BY pipeline_id, event_id
    ON CONFLICT (pipeline_id, event_id) DO NOTHING
    RETURNING pipeline_id, event_id
)
SELECT
    known.id IS NOT NULL AS is_current,
    stored.event_id IS NOT NULL AS is_new,
    known.sync_policy = $7 AS is_continuous,
    CASE
        WHEN stored.event_id IS NOT NULL
        THEN pg_notify('pipesync_webhook_events', arrived.pipeline_id)
    END AS notified
FROM arrived
LEFT JOIN known ON known.id = arrived.pipeline_id AND known.etag = arrived.etag
LEFT JOIN stored USING (pipeline_id, event_id)
ORDER BY arrival;

-- name: wake
-- Makes continuous pipelines apply new events. The commit waits for the disk, as in insert.
SELECT pipesync.wake(id)
FROM (SELECT DISTINCT id FROM unnest($1::text[]) AS ids (id) ORDER BY id) AS with_news
WHERE (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
    ELSE current_setting('synchronous_commit') END, true)) <> 'off';

-- name: store_dead_letters
-- Inserts in the order of the key, as insert does. Pending and applied events stay unchanged.
WITH sent AS MATERIALIZED (
    SELECT *
    FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::integer[], $6::text[], $7::bytea[])
        AS sent (event_id, event_type, create_time, attempts, reason, event)
),
stored AS (
    INSERT INTO pipesync.webhook_events AS known
        (pipeline_id, event_id, arrival, event_type, create_time, status, finish_time, failed_attempts, last_error, event)
    SELECT
        $1, event_id, nextval('pipesync.webhook_arrivals'), event_type, create_time, 3, clock_timestamp(), attempts,
        reason, event
    FROM sent
    ORDER BY event_id
    ON CONFLICT (pipeline_id, event_id) DO UPDATE
    SET failed_attempts = excluded.failed_attempts,
        last_error = excluded.last_error,
        finish_time = excluded.finish_time
    WHERE known.status = 3
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FROM stored WHERE is_new;

-- name: last_pending
SELECT arrival
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND status = 1
ORDER BY arrival DESC
LIMIT 1;

-- name: oldest_pending
-- $3: maximum number of events. $4: maximum number of bytes, unless the first event alone is larger.
SELECT arrival, event_id, event_type, failed_attempts, event
FROM (
    SELECT
        oldest.*,
        sum(octet_length(event)) OVER (ORDER BY arrival) AS bytes,
        row_number() OVER (ORDER BY arrival) AS place
    FROM (
        SELECT arrival, event_id, event_type, failed_attempts, event
        FROM pipesync.webhook_events
        WHERE pipeline_id = $1 AND status = 1 AND arrival <= $2 AND (failed_attempts > 0) = $5
        ORDER BY arrival
        LIMIT $3
    ) AS oldest
) AS measured
WHERE place = 1 OR bytes <= $4
ORDER BY arrival;

-- name: mark_applied
UPDATE pipesync.webhook_events
SET status = 2,
    finish_time = clock_timestamp(),
    inputs_series = $3,
    inputs_epoch = $4,
    inputs_number = $5
WHERE pipeline_id = $1 AND event_id = ANY($2) AND status = 1;

-- name: repeat_after
INSERT INTO pipesync.events_to_repeat (pipeline_id, event_id, lease_token)
SELECT pipeline_id, event_id, $3
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND event_id = ANY($2) AND receive_time >= $4
ORDER BY event_id
ON CONFLICT (pipeline_id, event_id) DO UPDATE SET lease_token = excluded.lease_token;

-- name: has_repeats
SELECT true FROM pipesync.events_to_repeat ORDER BY pipeline_id, event_id LIMIT 1;

-- name: requeue_repeats
-- Two services that run this at once requeue each event once. Another change of an event, such as a replay, stays.
WITH due AS MATERIALIZED (
    SELECT pipeline_id, event_id
    FROM pipesync.events_to_repeat AS again
    WHERE NOT EXISTS (
        SELECT
        FROM pipesync.leases AS held
        WHERE held.pipeline_id = again.pipeline_id
            AND held.token = again.lease_token
            AND held.expire_time > clock_timestamp()
    )
    ORDER BY pipeline_id, event_id
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM pipesync.events_to_repeat AS again
    USING due
    WHERE again.pipeline_id = due.pipeline_id AND again.event_id = due.event_id
    RETURNING again.pipeline_id, again.event_id
),
requeued AS (
    UPDATE pipesync.webhook_events AS event
    SET status = 1, finish_time = NULL
    FROM taken
    WHERE event.pipeline_id = taken.pipeline_id AND event.event_id = taken.event_id AND event.status = 2
    RETURNING event.pipeline_id
)
SELECT pipesync.wake(pipeline_id)
FROM (SELECT DISTINCT pipeline_id FROM requeued ORDER BY pipeline_id) AS with_news;

-- name: mark_failed
UPDATE pipesync.webhook_events
SET failed_attempts = failed_attempts + 1,
    last_error = $3,
    status = CASE WHEN failed_attempts + 1 >= $4 THEN 3 ELSE status END,
    finish_time = CASE WHEN failed_attempts + 1 >= $4 THEN clock_timestamp() END
WHERE pipeline_id = $1 AND event_id = $2 AND status = 1
RETURNING status = 3;

-- name: waiting_pipelines
-- Skips from pipeline to pipeline along the index of pending events, regardless of their number.
WITH RECURSIVE waiting AS (
    (
        SELECT pipeline_id
        FROM pipesync.webhook_events
        WHERE status = 1
        ORDER BY pipeline_id
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT later.pipeline_id
        FROM pipesync.webhook_events AS later
        WHERE later.status = 1 AND later.pipeline_id > waiting.pipeline_id
        ORDER BY later.pipeline_id
        LIMIT 1
    )
    FROM waiting
    WHERE waiting.pipeline_id IS NOT NULL
)
SELECT pipeline.id
FROM waiting
JOIN pipesync.pipelines AS pipeline ON pipeline.id = waiting.pipeline_id
WHERE pipeline.desired_status = $1
    AND NOT pipeline.is_torn_down
    AND (
        pipeline.sync_policy = $2
        OR (
            pipeline.sync_policy <> $2
            -- The same condition as in lifecycle.machine.may_apply_inbox.
            AND EXISTS (
                SELECT
                FROM pipesync.lifecycles AS lifecycle
                JOIN pipesync.leases AS step USING (pipeline_id)
                WHERE lifecycle.pipeline_id = pipeline.id
                    AND step.lets_events
                    AND step.expire_time > clock_timestamp()
                    AND lifecycle.memory ->> 'phase' <> 'setup'
                    AND lifecycle.memory ->> 'etag' = pipeline.etag
                    AND coalesce((lifecycle.memory -> 'due' ->> 'inbox')::timestamptz <= now(), true)
            )
        )
    )
ORDER BY pipeline.id;

-- name: backlog
WITH RECURSIVE oldest AS (
    (
        SELECT pipeline_id, receive_time
        FROM pipesync.webhook_events
        WHERE status = 1
        ORDER BY pipeline_id, arrival
        LIMIT 1
    )
    UNION ALL
    SELECT later.pipeline_id, later.receive_time
    FROM oldest
    CROSS JOIN LATERAL (
        SELECT pipeline_id, receive_time
        FROM pipesync.webhook_events
        WHERE status = 1 AND pipeline_id > oldest.pipeline_id
        ORDER BY pipeline_id, arrival
        LIMIT 1
    ) AS later
)
SELECT
    (SELECT count(*) FROM pipesync.webhook_events WHERE status = 1) AS pending,
    (SELECT count(*) FROM pipesync.webhook_events WHERE status = 3) AS dead_lettered,
    (SELECT greatest(clock_timestamp() - min(receive_time), interval '0') FROM oldest) AS lag;

-- name: list
SELECT arrival, event_id, event_type, status, create_time, receive_time, finish_time,
    failed_attempts, left(last_error, 4096) AS last_error
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND arrival < $2
ORDER BY arrival DESC
LIMIT $3;

-- name: list_pending
SELECT arrival, event_id, event_type, status, create_time, receive_time, finish_time,
    failed_attempts, left(last_error, 4096) AS last_error
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND arrival < $2 AND status = 1
ORDER BY arrival DESC
LIMIT $3;

-- name: list_applied
SELECT arrival, event_id, event_type, status, create_time, receive_time, finish_time,
    failed_attempts, left(last_error, 4096) AS last_error
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND arrival < $2 AND status = 2
ORDER BY arrival DESC
LIMIT $3;

-- name: list_dead_lettered
SELECT arrival, event_id, event_type, status, create_time, receive_time, finish_time,
    failed_attempts, left(last_error, 4096) AS last_error
FROM pipesync.webhook_events
WHERE pipeline_id = $1 AND arrival < $2 AND status = 3
ORDER BY arrival DESC
LIMIT $3;

-- name: missing
SELECT wanted.event_id
FROM unnest($2::text[]) AS wanted (event_id)
WHERE NOT EXISTS (
    SELECT 1
    FROM pipesync.webhook_events AS stored
    WHERE stored.pipeline_id = $1 AND stored.event_id = wanted.event_id
);

-- name: replay
WITH replayed AS (
    UPDATE pipesync.webhook_events
    SET status = 1, finish_time = NULL, failed_attempts = 0, last_error = ''
    WHERE pipeline_id = $1 AND event_id = ANY($2)
    RETURNING pipeline_id
)
SELECT count(*), pg_notify('pipesync_webhook_events', $1) FROM replayed;

-- name: replay_dead_lettered
WITH replayed AS (
    UPDATE pipesync.webhook_events
    SET status = 1, finish_time = NULL, failed_attempts = 0, last_error = ''
    WHERE pipeline_id = $1 AND status = 3
    RETURNING pipeline_id
)
SELECT count(*), pg_notify('pipesync_webhook_events', $1) FROM replayed;

-- name: replay_behind
-- $3: replays events with a later number of the series, except ($4, $5) those of this epoch up to this number.
WITH replayed AS (
    UPDATE pipesync.webhook_events
    SET status = 1, finish_time = NULL, failed_attempts = 0, last_error = ''
    WHERE pipeline_id = $1 AND status = 2 AND inputs_series = $2 AND inputs_number > $3
        AND NOT (inputs_epoch = $4 AND inputs_number <= $5)
    RETURNING pipeline_id
)
SELECT count(*), pg_notify('pipesync_webhook_events', $1) FROM replayed;

-- name: prune
-- Deleted events cannot be replayed, so the replayable position advances to the last of them.
WITH pruned AS (
    DELETE FROM pipesync.webhook_events
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM pipesync.webhook_events AS event
        WHERE status = 2
            AND finish_time < clock_timestamp() - $1::interval
            AND NOT EXISTS (
                SELECT
                FROM pipesync.events_to_repeat AS again
                WHERE again.pipeline_id = event.pipeline_id AND again.event_id = event.event_id
            )
        ORDER BY finish_time
        LIMIT $2
        FOR UPDATE OF event SKIP LOCKED
    ))
    RETURNING pipeline_id, inputs_series, inputs_epoch, inputs_number
),
last_pruned AS (
    SELECT DISTINCT ON (pipeline_id, inputs_series)
        pipeline_id, inputs_series, inputs_epoch, inputs_number
    FROM pruned
    WHERE inputs_number IS NOT NULL
    ORDER BY pipeline_id, inputs_series, inputs_number DESC
),
outdated AS MATERIALIZED (
    -- Locks in the order of the key, so that two services that prune at once do not deadlock.
    SELECT inputs.pipeline_id, last_pruned.inputs_epoch, last_pruned.inputs_number
    FROM pipesync.inputs
    JOIN last_pruned
        ON last_pruned.pipeline_id = inputs.pipeline_id AND last_pruned.inputs_series = inputs.series
    WHERE inputs.replayable_number < last_pruned.inputs_number
    ORDER BY inputs.pipeline_id
    FOR UPDATE OF inputs
),
moved AS (
    UPDATE pipesync.inputs
    SET replayable_epoch = outdated.inputs_epoch, replayable_number = outdated.inputs_number
    FROM outdated
    WHERE inputs.pipeline_id = outdated.pipeline_id
)
SELECT count(*) FROM pruned;
