-- A page of rejected records of one stream to retry, ordered by digest. $1: the stream. $2: the account; empty where it is
-- unknown. $3: the last digest of the previous page. $4: the most rows. $5: the most bytes, though at least one record is
-- returned. $6: whether only records are returned that were refused because of other rows.
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
