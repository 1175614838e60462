-- The records of a table that belong to others. The first argument: the ids of those others.
SELECT {owner} AS owner, {id} AS id
FROM {table}
WHERE {conditions}
