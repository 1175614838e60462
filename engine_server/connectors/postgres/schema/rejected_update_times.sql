-- Update times of the rejected records of a stream, in Unix seconds. $1: the stream. $2: the position of the id in the key.
-- $3: the ids. $4: the account; empty where it is unknown.
SELECT key[$2] AS id, extract(epoch FROM _updated_at)::bigint AS update_time
FROM {rejected}
WHERE stream = $1
    AND key[$2] = ANY($3::text[])
    AND _updated_at IS NOT NULL
    AND ($4 = '' OR coalesce(_account_id, $4) = $4)
