"""External text on a terminal."""

import json

import pytest
import yaml
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import ConnectionStatus, UnreadableStream
from pipesync_cli.output import (
    echo,
    echo_json,
    echo_table,
    echo_yaml,
    log_line,
    print_error,
    print_note,
    print_warning,
    unreadable_line,
)
from pipesync_rpc.errors import RpcError
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service

# Erases the line above, returns to its beginning, writes from the right, and ends a line twice.
FORGED = "x\x1b[1A\x1b[2K\r\x9b2K\u202e\u2028  nothing\n"
SHOWN = r"x\x1b[1A\x1b[2K\r\x9b2K\u202e\u2028  nothing\n"


def test_every_printed_line_escapes_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo(FORGED)
    print_note(FORGED)
    echo_table(["a", "b"], [[FORGED, "c"]])
    print_note(log_line(Message(emitted_by=FORGED, log=Log(level=Log.LEVEL_WARN, message=FORGED))))
    shown = capsys.readouterr()
    assert shown.out == f"{SHOWN}\na{' ' * len(SHOWN)} b\n{SHOWN}  c\n"
    assert shown.err == f"{SHOWN}\nwarn: {SHOWN}: {SHOWN}\n"


def test_sentences_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("a\nb\x1b[2K")
    print_warning("a\x85b\u2028c\u202e")
    print_note(unreadable_line(UnreadableStream(stream="s\x1b", reason="a\r\nb")))
    assert capsys.readouterr().err == (
        "Error: a b\\x1b[2K\nWarning: a b c\\u202e\ncannot read s\\x1b: a b\n"
    )


@pytest.mark.parametrize("text", [FORGED, "\x7f", "ü", "\u200b"])
def test_json_and_yaml_escape_control_characters_without_loss(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = contract.Pipeline(
        id="orders", config=PipelineConfig(source=Connector(type=text), destination=Connector())
    )
    pipeline.config.source.config[text] = text
    for write, read in ((echo_json, json.loads), (echo_yaml, yaml.safe_load)):
        write(pipeline)
        shown = capsys.readouterr().out
        assert read(shown)["config"]["source"] == {"type": text, "config": {text: text}}
        assert all(line.isprintable() for line in shown.split("\n"))
        assert ("ü" in shown) == (text == "ü")


async def test_no_command_prints_a_database_error_unescaped() -> None:
    service = scripted_service()
    service.messages = [
        Message(
            emitted_by="destination/postgres",
            connection_status=ConnectionStatus(
                status=ConnectionStatus.STATUS_FAILED, message=FORGED, notices=[FORGED]
            ),
        )
    ]
    outcome = await pipelines_of(service, "check", "orders")
    assert outcome.code == 1
    assert SHOWN in outcome.stdout
    service.raises = RpcError(FORGED, code=code_pb2.FAILED_PRECONDITION)
    refused = await pipelines_of(service, "check", "orders")
    assert "Error: x\\x1b[1A" in refused.stderr
    for text in (outcome.stdout, outcome.stderr, refused.stdout, refused.stderr):
        assert all(line.isprintable() for line in text.split("\n"))
