-- A row for each pipeline that runs by itself.
CREATE TABLE pipesync.lifecycles (
    pipeline_id text COLLATE "C" PRIMARY KEY REFERENCES pipesync.pipelines ON DELETE CASCADE,
    -- When its next step is due; while somebody takes one, when to look after them.
    due_time timestamptz NOT NULL,
    -- Grows when something happened that a step under way may not have seen.
    wakes bigint NOT NULL DEFAULT 0,
    -- What lifecycle.machine remembers, as JSON; null before the first step.
    memory json
);

CREATE INDEX lifecycles_by_due_time ON pipesync.lifecycles (due_time);

-- Has the pipeline's next step taken now, if it runs by itself. Many calls before that step write once.
CREATE FUNCTION pipesync.wake(woken_pipeline_id text) RETURNS void
LANGUAGE sql AS $$
    WITH woken AS (
        UPDATE pipesync.lifecycles
        SET due_time = now(), wakes = wakes + 1
        WHERE pipeline_id = woken_pipeline_id AND due_time > now()
        RETURNING true
    )
    SELECT pg_notify('pipesync_due', '') FROM woken;
$$;

CREATE FUNCTION pipesync.tell_of_pipeline() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('pipesync_pipelines', coalesce(NEW.id, OLD.id));
    RETURN NULL;
END
$$;

CREATE FUNCTION pipesync.tell_of_run() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('pipesync_pipelines', NEW.pipeline_id);
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_of_pipeline AFTER INSERT OR UPDATE OR DELETE ON pipesync.pipelines
FOR EACH ROW EXECUTE FUNCTION pipesync.tell_of_pipeline();

CREATE TRIGGER tell_of_run AFTER INSERT OR UPDATE ON pipesync.runs
FOR EACH ROW EXECUTE FUNCTION pipesync.tell_of_run();
