"""The webhook endpoint of a pipeline, from its setup to its deletion, as a user sees it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.end_to_end.command import PipelinesCommand
from tests.processes import ServerProcess
from tests.stripe_simulator.faults import Serve
from tests.stripe_simulator.simulator import StripeSimulator

URL = "https://example.com/webhooks"


@pytest.fixture
async def pipelines(service: ServerProcess, database_url: str) -> AsyncIterator[PipelinesCommand]:
    async with StripeSimulator() as simulator:
        yield PipelinesCommand(
            service=service.address, simulator=simulator, database_url=database_url
        )


def _urls(pipelines: PipelinesCommand) -> list[str]:
    documents = pipelines.simulator.objects("webhook_endpoints").documents()
    return sorted(document["url"] for document in documents)


async def _source(pipelines: PipelinesCommand, pipeline_id: str) -> dict[str, Any]:
    [shown] = (await pipelines("get", pipeline_id, "--raw")).json_lines()
    source: dict[str, Any] = shown["config"]["source"]["config"]
    return source


async def test_it_is_made_moved_and_removed_with_its_pipeline(pipelines: PipelinesCommand) -> None:
    for name in ("acme", "other"):
        schema = ("--destination-config", f"schema={name}")
        url = ("--source-config", f"webhook_url={URL}/{name}")
        created = await pipelines.create(name, ["customers"], *schema, *url)
        assert created.exit_code == 0, created.stderr
        done = await pipelines("setup", name)
        assert done.exit_code == 0, done.stderr
        assert f"for {URL}/{name}" in done.stderr
        assert "whsec_" not in done.stdout + done.stderr
    assert _urls(pipelines) == [f"{URL}/acme", f"{URL}/other"]
    stored = await _source(pipelines, "acme")
    assert (stored["webhook_secret"], stored["webhook_endpoint_id"][:3]) == ("********", "we_")

    again = await pipelines("setup", "acme")
    assert "webhook endpoint" not in again.stderr
    moved = await pipelines("update", "acme", "--source-config", f"webhook_url={URL}/moved")
    assert moved.exit_code == 0, moved.stderr
    assert (await pipelines("setup", "acme")).exit_code == 0
    assert _urls(pipelines) == [f"{URL}/moved", f"{URL}/other"]

    deleted = await pipelines("delete", "acme", "--yes")
    assert deleted.exit_code == 0, deleted.stderr
    assert f"for {URL}/moved" in deleted.stderr
    assert _urls(pipelines) == [f"{URL}/other"]


async def test_a_url_that_would_be_sent_secrets_in_plain_text_is_refused_by_name(
    pipelines: PipelinesCommand,
) -> None:
    url = ("--source-config", "webhook_url=http://example.com/webhooks")
    created = await pipelines.create("acme", ["customers"], *url)
    assert created.exit_code != 0
    assert "source.config.webhook_url: must be an https URL" in created.stderr


async def test_a_key_that_is_rotated_during_a_setup_stays_and_no_endpoint_is_left_behind(
    pipelines: PipelinesCommand,
) -> None:
    url = ("--source-config", f"webhook_url={URL}/acme")
    assert (await pipelines.create("acme", ["customers"], *url)).exit_code == 0
    reached, released = asyncio.Event(), asyncio.Event()

    async def holds(request: web.Request, serve: Serve) -> web.StreamResponse:
        reached.set()
        await released.wait()
        return await serve(request)

    simulator = pipelines.simulator
    simulator.faults.add(holds, path="/v1/webhook_endpoints", method="POST")
    simulator.restrict_key("rk_test_rotated", may_read=["*"], may_write=["*"])
    setup = asyncio.create_task(pipelines("setup", "acme"))
    async with asyncio.timeout(30):
        await reached.wait()
    rotated = await pipelines("update", "acme", "--source-config", "api_key=rk_test_rotated")
    assert rotated.exit_code == 0, rotated.stderr
    released.set()
    done = await setup
    assert done.exit_code == 1
    assert "run setup again" in done.stderr
    assert "was removed again" in done.stderr
    assert _urls(pipelines) == []
    assert "webhook_secret" not in await _source(pipelines, "acme")

    simulator.expire_key(simulator.api_key)
    limited = await pipelines("update", "acme", "--source-config", "rate_limit=5")
    assert limited.exit_code == 0, limited.stderr
    again = await pipelines("setup", "acme")
    assert again.exit_code == 0, again.stderr
    assert _urls(pipelines) == [f"{URL}/acme"]
    stored = await _source(pipelines, "acme")
    assert (stored["webhook_secret"], stored["rate_limit"]) == ("********", 5)
