"""Fields of ten resources, as documented by Stripe and as in the catalog."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.stripe.catalog.streams import load_resources

DOCUMENTED: Mapping[str, Any] = yaml.safe_load(
    Path(__file__).with_name("documented_fields.yaml").read_text()
)


@pytest.mark.parametrize("stream", DOCUMENTED)
def test_fields_have_the_types_that_stripe_documents(stream: str) -> None:
    # Any stream can mark records as deleted.
    expected: dict[str, str] = {"deleted": "boolean", **DOCUMENTED[stream].get("undocumented", {})}
    for kind, fields in DOCUMENTED[stream].items():
        if kind != "undocumented":
            expected |= dict.fromkeys(fields, "string" if kind == "reference" else kind)
    # Some classes lack it, but every record may have it.
    expected["deleted"] = "boolean"
    schema = MessageToDict(load_resources()[stream].stream.json_schema)
    assert schema == {
        "type": "object",
        "properties": {field: {"type": [kind, "null"]} for field, kind in expected.items()},
    }
