CREATE TABLE pipesync.pipelines (
    id text COLLATE "C" PRIMARY KEY,
    -- A PipelineConfig as JSON, every secret masked: what people are shown.
    config json NOT NULL,
    -- The same PipelineConfig as protobuf, secrets included, encrypted.
    sealed_config bytea NOT NULL,
    -- Enums hold the numbers of the contract.
    desired_status smallint NOT NULL,
    status smallint NOT NULL,
    status_message text NOT NULL DEFAULT '',
    sync_policy smallint NOT NULL,
    etag text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

-- Apart from its pipeline, because it is written as often as once a second.
CREATE TABLE pipesync.states (
    pipeline_id text COLLATE "C" PRIMARY KEY REFERENCES pipesync.pipelines ON DELETE CASCADE,
    -- A SyncState as protobuf: exact, byte for byte.
    sync_state bytea NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE pipesync.runs (
    pipeline_id text COLLATE "C" NOT NULL REFERENCES pipesync.pipelines ON DELETE CASCADE,
    run_id text COLLATE "C" NOT NULL,
    status smallint NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    -- A Progress as protobuf.
    progress bytea NOT NULL,
    failure_message text NOT NULL DEFAULT '',
    PRIMARY KEY (pipeline_id, run_id)
);

CREATE INDEX runs_newest_first ON pipesync.runs (pipeline_id, start_time DESC, run_id DESC);

-- Grows with every lease of any pipeline, so that a later holder always has the greater token.
CREATE SEQUENCE pipesync.fencing_tokens;

-- A row is there while somebody syncs the pipeline, or died doing so.
CREATE TABLE pipesync.leases (
    pipeline_id text COLLATE "C" PRIMARY KEY REFERENCES pipesync.pipelines ON DELETE CASCADE,
    token bigint NOT NULL,
    holder text NOT NULL,
    acquire_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL
);
