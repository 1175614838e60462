-- One page of the records of a table, in the order of an index.
SELECT {columns}
FROM {table}
WHERE {conditions}
ORDER BY {order}
LIMIT {limit}
