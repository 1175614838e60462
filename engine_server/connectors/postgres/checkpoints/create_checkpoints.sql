CREATE TABLE {checkpoints} (
    -- Empty where the source has no account.
    "account_id" text,
    -- The lineage of the state with these checkpoints: a reset begins another lineage.
    "lineage" text,
    -- Empty for the checkpoint that all streams share; (inputs) for the end of pushed inputs.
    "stream" text,
    -- The exact bytes; null for the start.
    "checkpoint" text,
    "stream_schema" text NOT NULL,
    "epoch" text NOT NULL,
    "number" bigint NOT NULL,
    -- Earlier epochs, newest first, each with the number up to which its rows are committed.
    "history" text NOT NULL,
    -- Whether the stream's table has had rows since the entry was created.
    "has_rows" boolean NOT NULL,
    "written_at" timestamptz NOT NULL,
    PRIMARY KEY ("account_id", "lineage", "stream")
)
-- Every commit updates entries: leave room for the next version on the same page.
WITH (fillfactor = 50);
CREATE INDEX ON {checkpoints} ("stream", "has_rows")
