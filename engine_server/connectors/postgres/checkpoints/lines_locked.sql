-- The lines of one lineage, locked in one order. $1: the account. $2: the lineage.
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
            AND other.written_at > line.written_at
    ) AS is_overtaken
FROM {checkpoints} AS line
WHERE line.account_id = $1
    AND line.lineage = $2
ORDER BY line.stream
FOR UPDATE OF line
