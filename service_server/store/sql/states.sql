-- name: get
SELECT
    state.sync_state,
    state.account_id,
    inputs.series,
    inputs.epoch,
    inputs.number,
    inputs.replayable_epoch,
    inputs.replayable_number
FROM (SELECT $1::text COLLATE "C" AS pipeline_id) AS wanted
LEFT JOIN pipesync.states AS state USING (pipeline_id)
LEFT JOIN pipesync.inputs AS inputs USING (pipeline_id);

-- name: lock
SELECT sync_state FROM pipesync.states WHERE pipeline_id = $1 FOR UPDATE;

-- name: put
INSERT INTO pipesync.states (pipeline_id, sync_state, account_id)
VALUES ($1, $2, $3)
ON CONFLICT (pipeline_id) DO UPDATE
SET sync_state = excluded.sync_state,
    account_id = CASE WHEN $3 = '' THEN states.account_id ELSE $3 END,
    update_time = now();

-- name: insert
INSERT INTO pipesync.states (pipeline_id, sync_state, account_id)
VALUES ($1, $2, $3)
ON CONFLICT (pipeline_id) DO NOTHING
RETURNING true;

-- name: delete
DELETE FROM pipesync.states WHERE pipeline_id = $1;
