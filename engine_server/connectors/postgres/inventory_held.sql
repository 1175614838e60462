-- A page of the records that a table holds, in the order of an index.
SELECT {columns}
FROM {table}
WHERE {conditions}
ORDER BY {order}
LIMIT {limit}
