-- Who deletes a pipeline, so that no other call takes back that it is to be deleted.
ALTER TABLE pipesync.pipelines
    -- The fencing token of the lease under which the pipeline is being deleted; null, or of a lease that is not held any
    -- more, while it is not.
    ADD COLUMN deletion_token bigint,
    -- What was wanted of the pipeline before it was to be deleted: a deletion that fails has it wanted again.
    ADD COLUMN desired_status_before_deletion smallint;
