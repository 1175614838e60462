-- The order in which webhook events came in.
CREATE SEQUENCE pipesync.webhook_arrivals;

CREATE TABLE pipesync.webhook_events (
    pipeline_id text COLLATE "C" NOT NULL REFERENCES pipesync.pipelines ON DELETE CASCADE,
    event_id text COLLATE "C" NOT NULL,
    arrival bigint NOT NULL,
    event_type text NOT NULL,
    create_time timestamptz NOT NULL,
    receive_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Enums hold the numbers of the contract: 1 is pending, 2 applied, 3 set aside.
    status smallint NOT NULL DEFAULT 1,
    finish_time timestamptz,
    failed_attempts integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    -- The body as it came in. It is not encrypted: it holds what the destination's tables hold in the clear, no secret
    -- of the pipeline, and an event that was acknowledged must be readable when a key is lost.
    event bytea NOT NULL,
    PRIMARY KEY (pipeline_id, event_id)
);

CREATE INDEX webhook_events_by_arrival ON pipesync.webhook_events (pipeline_id, arrival);

-- These stay as small as what is left to do, however long the history.
CREATE INDEX webhook_events_pending ON pipesync.webhook_events (pipeline_id, arrival)
WHERE status = 1;

CREATE INDEX webhook_events_set_aside ON pipesync.webhook_events (pipeline_id, arrival)
WHERE status = 3;

CREATE INDEX webhook_events_to_prune ON pipesync.webhook_events (finish_time)
WHERE status = 2;

-- A holder that keeps a lease for moments only, so that whoever else wants it does better to wait.
ALTER TABLE pipesync.leases ADD COLUMN is_brief boolean NOT NULL DEFAULT false;
