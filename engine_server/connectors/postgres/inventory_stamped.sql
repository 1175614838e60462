-- How new the records of a table are, in Unix seconds, deleted ones included. The first argument: their ids.
SELECT {id} AS id, extract(epoch FROM {stamp})::bigint AS stamp
FROM {table}
WHERE {conditions}
