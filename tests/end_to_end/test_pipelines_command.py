"""A pipeline's whole lifecycle through the pipelines command, the service and the engine."""

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pipesync.v1.pipeline_service_pb2 import DeletePipelineRequest
from pipesync_client import PipelineClient
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(
    counts={"customers": 2500, "products": 150, "prices": 450, "subscriptions": 300, "coupons": 20}
)


@pytest.fixture
async def pipelines(service: ServerProcess, database_url: str) -> AsyncIterator[PipelinesCommand]:
    async with StripeSimulator(PLAN) as simulator:
        yield PipelinesCommand(
            service=service.address, simulator=simulator, database_url=database_url
        )


async def test_two_batches_of_ten_checkpoints_then_the_rest(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("life", PLAN.counts)).exit_code == 0
    assert (await pipelines("setup", "life")).exit_code == 0

    twice = await pipelines(
        *("sync_batch", "life", "--reset-state", "--state-limit", "10", "--loop", "2", "--raw")
    )
    assert twice.exit_code == 0, twice.stderr
    first, second = twice.json_lines()
    for batch in (first, second):
        assert (batch["status"], batch["has_more"]) == ("started", True)
        assert batch["request_progress"]["derived"]["total_state_count"] == 10
    assert second["run_progress"]["derived"]["total_state_count"] == 20

    rest = await pipelines("sync_batch", "life", "--loop", "0", "--raw")
    assert rest.exit_code == 0, rest.stderr
    last = rest.json_lines()[-1]
    assert (last["status"], last["has_more"]) == ("succeeded", False)
    statuses = {stream["status"] for stream in last["run_progress"]["streams"].values()}
    assert statuses == {"completed"}
    await assert_tables_equal(pipelines.simulator, pipelines.database_url, PLAN.counts)


async def test_a_streamed_sync_fills_the_tables_too(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("life", PLAN.counts)).exit_code == 0
    synced = await pipelines("sync", "life")
    assert synced.exit_code == 0, synced.stderr
    await assert_tables_equal(pipelines.simulator, pipelines.database_url, PLAN.counts)
    total = sum(PLAN.counts.values())
    assert f"{total:,} records (all new)" in synced.stdout
    [shown] = (await pipelines("get", "life", "--raw")).json_lines()
    assert shown["progress"]["derived"]["total_rows"]["inserted"] == total
    again = await pipelines("sync_batch", "life", "--raw")
    assert again.json_lines()[-1]["status"] == "succeeded"


async def test_reconciling_deletes_what_is_gone_and_goes_on_where_it_was_left(
    pipelines: PipelinesCommand,
) -> None:
    streams = ["customers", "products"]
    assert (await pipelines.create("life", streams)).exit_code == 0
    assert (await pipelines("sync_batch", "life", "--loop", "0")).exit_code == 0
    for stream, number in (("customers", 20), ("products", 3)):
        objects = pipelines.simulator.objects(stream)
        for object_id in sorted(objects.ids())[:number]:
            objects.delete(object_id)
    # As when it is interrupted after a call.
    begun = await pipelines(
        *("reconcile", "life", "--run-id", "again", "--state-limit", "3", "--raw")
    )
    assert begun.exit_code == 0, begun.stderr
    assert len(begun.json_lines()) > 5
    again = await pipelines("reconcile", "life", "--run-id", "again")
    assert again.exit_code == 0, again.stderr
    assert "customers: 2,5" in again.stdout
    assert "20 deleted" in again.stdout
    assert "3 deleted" in again.stdout
    connection = await asyncpg.connect(pipelines.database_url)
    try:
        deleted = "SELECT count(*) FROM stripe.customers WHERE deleted"
        assert await connection.fetchval(deleted) == 20
    finally:
        await connection.close()
    nothing = await pipelines("reconcile", "life")
    assert nothing.exit_code == 0, nothing.stderr
    [total] = nothing.stdout.splitlines()
    assert "unchanged" in total
    assert (await pipelines("sync_batch", "life", "--run-id", "other")).exit_code == 0
    refused = await pipelines("reconcile", "life", "--run-id", "other")
    assert refused.exit_code == 1
    assert "reconcile: must be absent" in refused.stderr


async def test_typed_columns_can_be_queried(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("life", ["customers", "subscriptions"])).exit_code == 0
    assert (await pipelines("sync_batch", "life", "--loop", "0")).exit_code == 0
    connection = await asyncpg.connect(pipelines.database_url)
    try:
        row = await connection.fetchrow(
            """
            SELECT customers.created, customers.livemode, customers.email, subscriptions.status
            FROM stripe.customers
            JOIN stripe.subscriptions ON subscriptions.customer = customers.id
            LIMIT 1
            """
        )
    finally:
        await connection.close()
    assert row is not None
    assert [type(value) for value in row] == [int, bool, str, str]


async def test_no_answer_shows_a_secret(pipelines: PipelinesCommand) -> None:
    created = await pipelines.create("life", PLAN.counts)
    answers = [created, await pipelines("get", "life"), await pipelines("list")]
    answers.append(await pipelines("update", "life", "--destination-config", "batch_size=500"))
    answers.append(await pipelines("check", "life"))
    for answer in answers:
        assert answer.exit_code == 0, answer.stderr
        assert pipelines.simulator.api_key not in answer.stdout + answer.stderr
        assert pipelines.database_url not in answer.stdout + answer.stderr
    # The update kept the secrets that its own read had masked.
    assert (await pipelines("sync_batch", "life")).exit_code == 0


async def test_teardown_and_delete_leave_nothing(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("life", PLAN.counts)).exit_code == 0
    assert (await pipelines("setup", "life")).exit_code == 0
    connection = await asyncpg.connect(pipelines.database_url)
    try:
        await connection.execute("CREATE VIEW public.held AS SELECT id FROM stripe.customers")
        held = await pipelines("delete", "life", "--yes")
        assert held.exit_code == 1
        assert "other objects depend on it" in held.stderr
        assert "dropped" not in held.stderr
        await connection.execute("DROP VIEW public.held")
        deleted = await pipelines("delete", "life", "--yes")
        assert deleted.exit_code == 0
        for stream in PLAN.counts:
            assert f'dropped table "stripe"."{stream}"' in deleted.stderr
        assert (await pipelines("get", "life")).exit_code != 0
        tables = await connection.fetch(
            "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'stripe'"
        )
    finally:
        await connection.close()
    assert tables == []


async def test_what_a_deletion_would_remove_is_told_before(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("life", PLAN.counts)).exit_code == 0
    assert (await pipelines("setup", "life")).exit_code == 0
    assert (await pipelines("sync_batch", "life", "--loop", "0")).exit_code == 0
    async with PipelineClient(pipelines.service) as client:
        request = DeletePipelineRequest(pipeline_id="life", validate_only=True)
        messages = (await client.delete_pipeline(request)).messages
    planned = [one.planned_removal for one in messages if one.HasField("planned_removal")]
    rows = {removal.name: removal.estimated_row_count for removal in planned}
    assert rows['"stripe"."coupons"'] == PLAN.counts["coupons"]
    # Large enough to be estimated.
    assert rows['"stripe"."customers"'] > 100
    deleted = await pipelines("delete", "life", "--yes")
    assert deleted.exit_code == 0
    dropped = re.findall(r"dropped \w+ (\S+)", deleted.stderr)
    assert dropped == [removal.name for removal in planned]


async def test_teardown_removes_what_was_synced_but_no_row_of_another_account(
    pipelines: PipelinesCommand,
) -> None:
    assert (await pipelines.create("life", PLAN.counts)).exit_code == 0
    assert (await pipelines("setup", "life")).exit_code == 0
    assert (await pipelines("sync_batch", "life")).exit_code == 0
    connection = await asyncpg.connect(pipelines.database_url)
    try:
        await connection.execute(
            """
            INSERT INTO stripe.customers (id, _account_id, _raw_data, _last_synced_at)
            VALUES ('cus_other', 'acct_other', '{}', now())
            """
        )
        torn_down = await pipelines("teardown", "life", "--yes")
        assert torn_down.exit_code == 0
        assert "it has rows of account acct_other" in torn_down.stderr
        left = await connection.fetch("SELECT id FROM stripe.customers")
        assert [row["id"] for row in left] == ["cus_other"]
        tables = await connection.fetch(
            "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'stripe'"
        )
        # The tables of rejected records and checkpoints stay as long as there is a table.
        own = {"_pipesync_checkpoints", "_pipesync_rejected"}
        assert {row["tablename"] for row in tables} == {"customers", *own}
    finally:
        await connection.close()
