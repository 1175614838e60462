-- How many records the destination rejected and keeps, as the pipeline's last sync told.
ALTER TABLE pipesync.pipelines ADD COLUMN held_rejected_record_count bigint NOT NULL DEFAULT 0;
