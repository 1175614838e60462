-- Copies the entries of the account's last written lineage, unless another request does so.
-- $1: the account. $2: the lineage that gets the copies.
INSERT INTO {checkpoints} (
    account_id, lineage, stream, checkpoint, stream_schema, epoch, number, history, has_rows, written_at
)
SELECT account_id, $2, stream, checkpoint, stream_schema, epoch, number, history, has_rows, now()
FROM {checkpoints}
WHERE account_id = $1
    AND lineage = (
        SELECT lineage
        FROM {checkpoints}
        WHERE account_id = $1
        ORDER BY written_at DESC, lineage
        LIMIT 1
    )
ON CONFLICT (account_id, lineage, stream) DO NOTHING
