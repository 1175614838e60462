-- Rejected records of one stream to be tried again, in the order of their digests. $1: the stream. $2: the account;
-- empty where it is not known. $3: the digest to go on behind. $4: at most so many. $5: at most so many bytes, but one
-- record at least. $6: only those that other rows stood in the way of.
SELECT digest, record, last_time
FROM (
    SELECT
        digest,
        record,
        last_time,
        sum(length(record)) OVER (ORDER BY digest) - length(record) AS bytes_before
    FROM {rejected}
    WHERE stream = $1
        AND ($2 = '' OR coalesce(_account_id, $2) = $2)
        AND digest > $3
        AND (NOT $6 OR sqlstate IN ('23503', '23505', '23P01'))
    ORDER BY digest
    LIMIT $4
) AS page
WHERE bytes_before < $5
ORDER BY digest
