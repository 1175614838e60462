-- The update times of records in Unix seconds, also of deleted ones. The first argument: their ids.
SELECT {id} AS id, extract(epoch FROM {updated_at})::bigint AS update_time
FROM {table}
WHERE {conditions}
