-- The entries of one lineage, locked in one order. $1: the account. $2: the lineage.
SELECT
    stream,
    checkpoint,
    stream_schema,
    epoch,
    number,
    history,
    has_rows,
    written_at < now() - interval '1 day' AS is_old,
    extract(epoch FROM now() - written_at)::double precision AS age,
    EXISTS (
        SELECT
        FROM {checkpoints} AS other
        WHERE other.account_id = $1
            AND other.lineage <> $2
            AND other.written_at > entry.written_at
    ) AS is_superseded
FROM {checkpoints} AS entry
WHERE entry.account_id = $1
    AND entry.lineage = $2
ORDER BY entry.stream
FOR UPDATE OF entry
