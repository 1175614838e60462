-- A row is there while a service applies a pipeline's webhook events, or died doing so. It may do so beside a sync.
CREATE TABLE pipesync.applier_leases (
    pipeline_id text COLLATE "C" PRIMARY KEY REFERENCES pipesync.pipelines ON DELETE CASCADE,
    token bigint NOT NULL,
    holder text NOT NULL,
    acquire_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL
);

-- Whether events may be applied beside the holder. Services that know of applier_leases say so by their token: older
-- ones, which take a lease over without touching this, are to be alone.
ALTER TABLE pipesync.leases ADD COLUMN lets_events boolean NOT NULL DEFAULT false;
ALTER TABLE pipesync.leases ADD COLUMN knowing_token bigint;

-- Has those who acquire a lease of a pipeline take turns until their transactions end.
CREATE FUNCTION pipesync.take_lease_turn(wanted_pipeline_id text) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('pipesync leases ' || wanted_pipeline_id, 0));
$$;

CREATE FUNCTION pipesync.are_events_applied(wanted_pipeline_id text) RETURNS boolean
LANGUAGE sql AS $$
    SELECT EXISTS (
        SELECT FROM pipesync.applier_leases
        WHERE pipeline_id = wanted_pipeline_id AND expire_time > clock_timestamp()
    );
$$;

-- Null when the lease is held, or there is no such pipeline.
CREATE FUNCTION pipesync.acquire_lease(
    wanted_pipeline_id text, new_holder text, duration interval, new_lets_events boolean
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    new_token bigint := nextval('pipesync.fencing_tokens');
    taken bigint;
BEGIN
    PERFORM pipesync.take_lease_turn(wanted_pipeline_id);
    IF NOT new_lets_events AND pipesync.are_events_applied(wanted_pipeline_id) THEN
        RETURN NULL;
    END IF;
    INSERT INTO pipesync.leases AS held
        (pipeline_id, token, holder, acquire_time, expire_time, lets_events, knowing_token)
    SELECT id, new_token, new_holder, clock_timestamp(), clock_timestamp() + duration, new_lets_events, new_token
    FROM pipesync.pipelines
    WHERE id = wanted_pipeline_id
    ON CONFLICT (pipeline_id) DO UPDATE
    SET token = excluded.token,
        holder = excluded.holder,
        acquire_time = excluded.acquire_time,
        expire_time = excluded.expire_time,
        is_brief = false,
        lets_events = excluded.lets_events,
        knowing_token = excluded.knowing_token
    WHERE held.expire_time <= clock_timestamp()
    RETURNING token INTO taken;
    RETURN taken;
END
$$;

-- Null when the lease is held, or one beside which no events may be applied, or there is no such pipeline.
CREATE FUNCTION pipesync.acquire_applier_lease(
    wanted_pipeline_id text, new_holder text, duration interval
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    PERFORM pipesync.take_lease_turn(wanted_pipeline_id);
    IF EXISTS (
        SELECT FROM pipesync.leases
        WHERE pipeline_id = wanted_pipeline_id AND expire_time > clock_timestamp() AND NOT lets_events
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO pipesync.applier_leases AS held (pipeline_id, token, holder, acquire_time, expire_time)
    SELECT id, nextval('pipesync.fencing_tokens'), new_holder, clock_timestamp(), clock_timestamp() + duration
    FROM pipesync.pipelines
    WHERE id = wanted_pipeline_id
    ON CONFLICT (pipeline_id) DO UPDATE
    SET token = excluded.token,
        holder = excluded.holder,
        acquire_time = excluded.acquire_time,
        expire_time = excluded.expire_time
    WHERE held.expire_time <= clock_timestamp()
    RETURNING token INTO taken;
    RETURN taken;
END
$$;

-- An older service knows nothing of applier_leases: it is told to try again, as by a server that starts up.
CREATE FUNCTION pipesync.refuse_lease_of_older_service() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.knowing_token IS DISTINCT FROM NEW.token THEN
        NEW.lets_events := false;
        PERFORM pipesync.take_lease_turn(NEW.pipeline_id);
        IF pipesync.are_events_applied(NEW.pipeline_id) THEN
            RAISE EXCEPTION 'events of pipeline % are being applied', NEW.pipeline_id USING ERRCODE = '57P03';
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER refuse_lease_of_older_service BEFORE INSERT OR UPDATE OF token ON pipesync.leases
FOR EACH ROW EXECUTE FUNCTION pipesync.refuse_lease_of_older_service();

-- Events to be applied once more when the sync that held this token has ended: they were compared with what the
-- destination held, and rows of that sync were still on their way.
CREATE TABLE pipesync.events_to_repeat (
    pipeline_id text COLLATE "C" NOT NULL REFERENCES pipesync.pipelines ON DELETE CASCADE,
    event_id text COLLATE "C" NOT NULL,
    lease_token bigint NOT NULL,
    PRIMARY KEY (pipeline_id, event_id)
);

-- The destination's tables were removed: no event makes them again, until a setup or a sync does.
ALTER TABLE pipesync.pipelines ADD COLUMN is_torn_down boolean NOT NULL DEFAULT false;
