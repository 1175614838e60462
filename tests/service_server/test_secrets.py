import base64
import logging
import stat
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from service_server.errors import CannotStart, SecretsUnreadable
from service_server.security.secrets import Vault, key_from_file, parse_keys
from service_server.store.database import Database
from service_server.store.pipelines import StoredPipeline
from tests.service_server.conftest import KEY, SECRET, connector, pipeline
from tests.service_server.scripted_engine import ScriptedEngine

OLD, NEW = b"o" * 32, b"n" * 32


def test_a_sealed_text_can_be_opened() -> None:
    envelope = Vault([NEW]).seal(b"hidden", pipeline_id="first")
    assert b"hidden" not in envelope
    assert Vault([NEW]).open(envelope, pipeline_id="first") == b"hidden"


def test_an_older_key_still_opens_and_the_newest_seals() -> None:
    old_envelope = Vault([OLD]).seal(b"hidden", pipeline_id="first")
    vault = Vault([NEW, OLD])
    assert vault.open(old_envelope, pipeline_id="first") == b"hidden"
    new_envelope = vault.seal(b"hidden", pipeline_id="first")
    assert Vault([NEW]).open(new_envelope, pipeline_id="first") == b"hidden"


def test_an_envelope_can_be_opened_for_its_own_pipeline_alone() -> None:
    envelope = Vault([NEW]).seal(b"hidden", pipeline_id="first")
    with pytest.raises(SecretsUnreadable, match="damaged"):
        Vault([NEW]).open(envelope, pipeline_id="second")


def test_a_missing_key_is_reported() -> None:
    envelope = Vault([OLD]).seal(b"hidden", pipeline_id="first")
    with pytest.raises(SecretsUnreadable, match="PIPESYNC_ENCRYPTION_KEYS"):
        Vault([NEW]).open(envelope, pipeline_id="first")


def test_keys_are_base64_of_32_bytes_between_commas() -> None:
    url_safe = base64.urlsafe_b64encode(b"\xff" * 32).decode()
    assert parse_keys(f"{KEY}, {url_safe}") == [bytes(range(32)), b"\xff" * 32]
    for bad in ("", "short", f"{KEY},", base64.b64encode(b"x" * 31).decode(), "*" * 44):
        with pytest.raises(ValueError, match="not 32 bytes in base64") as error:
            parse_keys(bad)
        assert not bad or bad not in str(error.value)


def test_a_key_file_is_created_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "encryption.key"
    key = key_from_file(path)
    assert key_from_file(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encryption.key"
    path.write_text("nonsense")
    with pytest.raises(CannotStart, match=r"encryption\.key"):
        key_from_file(path)


async def test_a_secret_is_in_no_response_no_log_and_no_table(
    client: PipelineClient,
    engine: ScriptedEngine,
    database: Database,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)

    async def failing_batch(_: object) -> Eof:
        raise RuntimeError("the engine breaks")

    with capture_logs() as logs:
        answers: list[object] = [
            await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
        ]
        overrides = pb.SyncOverrides(source=connector(webhook_secret=SECRET))
        for script in (engine.batch, failing_batch):
            engine.batch = script
            request = pb.SyncPipelineBatchRequest(pipeline_id="first", overrides=overrides)
            try:
                answers.append(await client.sync_pipeline_batch(request))
            except Exception as error:  # errors of any type are searched
                answers.append(repr(error))
        full = pb.GetPipelineRequest(pipeline_id="first", view=pb.PIPELINE_VIEW_FULL)
        answers.append(await client.get_pipeline(full))
        answers.append(await client.list_pipelines(pb.ListPipelinesRequest()))
        answers.append(await client.list_runs(pb.ListRunsRequest(pipeline_id="first")))
    assert len(answers) == 6
    assert SECRET not in str(answers)
    assert logs
    captured = capfd.readouterr()
    assert SECRET not in str(logs) + caplog.text + captured.out + captured.err
    tables = await dump(database_url)
    assert "first" in tables
    assert SECRET not in tables
    assert SECRET.encode().hex() not in tables


async def dump(url: str) -> str:
    """Return every row of every table of the service, as text."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'pipesync'"
        )
        rows = [
            await connection.fetch(f'SELECT t::text FROM pipesync."{name[0]}" AS t')  # noqa: S608 - the catalog's own names
            for name in names
        ]
    finally:
        await connection.close()
    return str(rows)


def test_a_stored_pipeline_shows_nothing_sealed() -> None:
    assert "hidden" not in repr(StoredPipeline(pipeline=pb.Pipeline(), sealed_config=b"hidden"))
