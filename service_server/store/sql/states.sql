-- name: get
SELECT sync_state FROM pipesync.states WHERE pipeline_id = $1;

-- name: put
INSERT INTO pipesync.states (pipeline_id, sync_state)
VALUES ($1, $2)
ON CONFLICT (pipeline_id) DO UPDATE
SET sync_state = excluded.sync_state, update_time = now();

-- name: delete
DELETE FROM pipesync.states WHERE pipeline_id = $1;
