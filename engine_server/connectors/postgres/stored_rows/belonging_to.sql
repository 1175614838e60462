-- The records of a table that belong to the given owners. The first argument: the ids of the owners.
SELECT {owner} AS owner, {id} AS id
FROM {table}
WHERE {conditions}
