-- Inserts or replaces entries of one lineage. $1: the account. $2: the lineage. $3 to $9: the entries, column by column.
INSERT INTO {checkpoints} AS entry (
    account_id, lineage, stream, checkpoint, stream_schema, epoch, number, history, has_rows, written_at
)
SELECT $1, $2, given.*, now()
FROM unnest(
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]::bigint[], $8::text[], $9::text[]::boolean[]
) AS given
ORDER BY 3
ON CONFLICT (account_id, lineage, stream) DO UPDATE SET
    checkpoint = excluded.checkpoint,
    stream_schema = excluded.stream_schema,
    epoch = excluded.epoch,
    number = excluded.number,
    history = excluded.history,
    has_rows = entry.has_rows OR excluded.has_rows,
    written_at = excluded.written_at
