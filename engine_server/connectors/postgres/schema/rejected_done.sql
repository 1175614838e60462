-- Deletes records that were retried and are no longer rejected, unless another request retried them since. $1: the stream.
-- $2: digests. $3: the last_time of each.
DELETE FROM {rejected} AS entry
USING unnest($2::text[]::bytea[], $3::text[]::timestamptz[]) AS tried (digest, last_time)
WHERE entry.stream = $1
    AND entry.digest = tried.digest
    AND entry.last_time = tried.last_time
