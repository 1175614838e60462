CREATE TABLE {checkpoints} (
    -- Empty where the source has none.
    "account_id" text,
    -- Of the state that the checkpoints are of: a reset begins another.
    "lineage" text,
    -- Empty for the checkpoint that all streams share; (inputs) for the end of what was pushed.
    "stream" text,
    -- Byte for byte; null for the start.
    "checkpoint" text,
    "stream_schema" text NOT NULL,
    "epoch" text NOT NULL,
    "number" bigint NOT NULL,
    -- Earlier epochs, newest first, each with the number up to which its rows are held.
    "history" text NOT NULL,
    -- Whether the stream's table has had rows since the line was made.
    "has_rows" boolean NOT NULL,
    "written_at" timestamptz NOT NULL,
    PRIMARY KEY ("account_id", "lineage", "stream")
)
-- Updated with every commit: room for the next version on the same page.
WITH (fillfactor = 50);
CREATE INDEX ON {checkpoints} ("stream", "has_rows")
