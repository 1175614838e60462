,
-- A rejected record is outdated by one that is as new, unless it is a deletion, which comes last in its second.
cleared AS (
    DELETE FROM {rejected} AS entry
    USING newest
    WHERE entry.stream = {stream}
        AND entry.key = {newest_key}
        AND (newest.updated_at < entry._updated_at) IS NOT TRUE
        AND NOT (entry.deleted AND NOT newest.deleted AND (newest.updated_at = entry._updated_at) IS TRUE)
)
