-- Numbers of kept records. $1: streams. $2: the account of each; empty where it is unknown.
SELECT
    entry.stream,
    count(*) AS of_all_accounts,
    count(*) FILTER (
        WHERE wanted.account_id = '' OR coalesce(entry._account_id, wanted.account_id) = wanted.account_id
    ) AS of_account
FROM unnest($1::text[], $2::text[]) AS wanted (stream, account_id)
JOIN {rejected} AS entry ON entry.stream = wanted.stream
GROUP BY entry.stream
