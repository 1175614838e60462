-- The lines of one lineage, locked in one order. $1: the account. $2: the lineage.
SELECT stream, checkpoint, stream_schema, epoch, number, history, has_rows, written_at < now() - interval '1 day' AS is_old
FROM {checkpoints}
WHERE account_id = $1
    AND lineage = $2
ORDER BY stream
FOR UPDATE
