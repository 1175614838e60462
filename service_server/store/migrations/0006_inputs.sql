-- Where each pipeline's inputs are at the destination, as far as it has recorded that.
CREATE TABLE pipesync.inputs (
    pipeline_id text COLLATE "C" PRIMARY KEY REFERENCES pipesync.pipelines ON DELETE CASCADE,
    -- Grows when earlier positions lose their meaning: nothing that was applied under one of them is applied again.
    series bigint NOT NULL DEFAULT 1,
    -- The position of the last inputs that the destination committed; null when it has recorded none.
    epoch text,
    number bigint,
    -- All webhook events of the series with a position behind this one are kept.
    replayable_epoch text,
    replayable_number bigint
);

-- The position with which an event was applied; null when the destination recorded none.
ALTER TABLE pipesync.webhook_events
    ADD COLUMN inputs_series bigint,
    ADD COLUMN inputs_epoch text,
    ADD COLUMN inputs_number bigint;

-- The account at the source that the checkpoints are of; empty when the source did not say.
ALTER TABLE pipesync.states ADD COLUMN account_id text NOT NULL DEFAULT '';
