-- concurrently
CREATE INDEX CONCURRENTLY IF NOT EXISTS pipelines_with_rejected_records
ON pipesync.pipelines (held_rejected_record_count) WHERE held_rejected_record_count > 0;
