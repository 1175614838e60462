-- $1: a schema. $2: tables. Whether the schema exists, belongs to our role, and is empty but for these tables and their dependents.
SELECT EXISTS (
    SELECT
    FROM pg_catalog.pg_namespace AS schema_
    WHERE schema_.nspname = $1
        AND pg_has_role(schema_.nspowner, 'USAGE')
        AND NOT EXISTS (
            SELECT
            FROM pg_catalog.pg_depend AS held
            WHERE held.refclassid = 'pg_catalog.pg_namespace'::regclass
                AND held.refobjid = schema_.oid
                AND NOT EXISTS (
                    SELECT
                    FROM pg_catalog.pg_class AS dropped
                    WHERE dropped.relnamespace = schema_.oid
                        AND dropped.relname = ANY($2::text[])
                        AND (
                            (held.classid = 'pg_catalog.pg_class'::regclass AND held.objid = dropped.oid)
                            OR EXISTS (
                                SELECT
                                FROM pg_catalog.pg_depend AS part
                                WHERE part.classid = held.classid
                                    AND part.objid = held.objid
                                    AND part.refclassid = 'pg_catalog.pg_class'::regclass
                                    AND part.refobjid = dropped.oid
                                    AND part.deptype IN ('a', 'i')
                            )
                        )
                )
        )
)
