"""Load of an account into Postgres by dlt, in the two forms that are usual.

``python -m tests.benchmarks.dlt_loads`` runs in a Python that has dlt and reads the work as JSON
from its standard input: base_url, api_key, database_url, streams, form and directory. It prints the
time and memory that the load took.

- ``default``: its REST API source, configured with Stripe's paging and the primary key only.
- ``fastest``: pages are parsed by hand and yielded as Arrow tables of ids and JSON texts, so that
  dlt inspects no record; they are loaded by COPY from CSV and upserted in one statement.

See https://dlthub.com/docs/dlt-ecosystem/verified-sources/rest_api/basic and
https://dlthub.com/docs/general-usage/merge-loading.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.own_process import told

DATASET = "stripe"
_PAGE_SIZE = 100
# Larger tables are no faster.
_PAGES_A_TABLE = 50


def _default(work: Mapping[str, Any]) -> Any:
    from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found]  # in an environment of its own

    return rest_api_source(
        {
            "client": {
                "base_url": f"{work['base_url']}/v1/",
                "auth": {"type": "bearer", "token": work["api_key"]},
                "paginator": {
                    "type": "cursor",
                    "cursor_path": "data[-1].id",
                    "cursor_param": "starting_after",
                    "has_more_path": "has_more",
                },
            },
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            "resources": [
                {
                    "name": stream,
                    "endpoint": {
                        "path": stream,
                        "params": {"limit": _PAGE_SIZE},
                        "data_selector": "data",
                    },
                }
                for stream in work["streams"]
            ],
        }
    )


def _fastest(work: Mapping[str, Any]) -> Any:
    import dlt  # type: ignore[import-not-found]  # in an environment of its own

    return [
        dlt.resource(
            _tables(work, stream),
            name=stream,
            primary_key="id",
            write_disposition={"disposition": "merge", "strategy": "upsert"},
            file_format="csv",
        )
        for stream in work["streams"]
    ]


def _tables(work: Mapping[str, Any], stream: str) -> Iterator[Any]:
    import orjson
    import pyarrow  # type: ignore[import-not-found]  # in an environment of its own
    from dlt.sources.helpers import requests  # type: ignore[import-not-found]  # in an environment of its own

    headers = {"Authorization": f"Bearer {work['api_key']}"}
    params = {"limit": str(_PAGE_SIZE)}
    ids: list[str] = []
    texts: list[bytes] = []
    has_more = True
    while has_more:
        response = requests.get(f"{work['base_url']}/v1/{stream}", params=params, headers=headers)
        page = orjson.loads(response.content)
        has_more = page["has_more"]
        for record in page["data"]:
            ids.append(record["id"])
            texts.append(orjson.dumps(record))
        params["starting_after"] = ids[-1]
        if len(ids) >= _PAGES_A_TABLE * _PAGE_SIZE or not has_more:
            yield pyarrow.table(
                {"id": ids, "raw_data": pyarrow.array(texts).cast(pyarrow.string())}
            )
            ids, texts = [], []


_FORMS = {"default": _default, "fastest": _fastest}


def _with_password(url: str) -> str:
    # dlt requires a host and a password, though a socket needs neither; the query string overrides
    # them.
    return url.replace("postgres@/", "postgres:none@localhost/", 1)


def main() -> None:
    """Run the load that standard input describes and print its time and memory."""
    import dlt

    work = json.load(sys.stdin)
    form = _FORMS[work["form"]]
    with told():
        pipeline = dlt.pipeline(
            pipeline_name=work["form"],
            pipelines_dir=work["directory"],
            destination=dlt.destinations.postgres(_with_password(work["database_url"])),
            dataset_name=DATASET,
        )
        pipeline.run(form(work)).raise_on_failed_jobs()


if __name__ == "__main__":
    main()
