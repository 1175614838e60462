"""Empty pages of v2 lists, which still name the next page, are followed to the end."""

from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.object_fetcher import ObjectFetcher
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill, held
from tests.engine_server.connectors.stripe.reading import (
    QUICK,
    Reading,
    config_for,
    read,
    selected,
)
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.odd_pages import (
    empty_last_page,
    empty_middle_pages,
    pages_without_end,
)
from tests.stripe_simulator.simulator import StripeSimulator

STREAM = "v2_core_accounts"
PATH = "/v2/core/accounts"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(50))
        yield simulator


async def read_accounts(simulator: StripeSimulator, **request: object) -> Reading:
    # One end for all reads of a test: a later one would read the newest part of the list again.
    until = Timestamp(seconds=END)
    return await read(config_for(simulator), [selected(STREAM)], until=until, **request)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "pages"), [(empty_last_page, 4), (empty_middle_pages, 5)], ids=["last", "middle"]
)
@pytest.mark.parametrize("count", [50, 40])
async def test_empty_pages_are_passed_and_tokens_are_not_used_as_ids(
    simulator: StripeSimulator, fault: Callable[[], faults.Fault], pages: int, count: int
) -> None:
    for number in range(count, 50):
        simulator.objects(STREAM).delete(f"obj_{number}")
    simulator.faults.add(fault(), path=PATH, times=None)
    reading = await read_accounts(simulator)
    assert reading.ids == held(simulator, STREAM)
    assert reading.turns(STREAM) == ["started", "completed"]
    assert {request.path for request in simulator.requests} == {PATH}
    assert len(simulator.requests) <= pages


async def test_an_empty_list_that_names_a_last_page_is_complete() -> None:
    async with StripeSimulator() as simulator:
        simulator.faults.add(empty_last_page(), path=PATH, times=None)
        reading = await read_accounts(simulator)
    assert reading.turns(STREAM) == ["started", "completed"]
    assert len(simulator.requests) == 2


@pytest.mark.parametrize("fault", [empty_last_page, empty_middle_pages])
async def test_a_read_of_one_page_a_request_passes_empty_pages(
    simulator: StripeSimulator, fault: Callable[[], faults.Fault]
) -> None:
    simulator.faults.add(fault(), path=PATH, times=None)
    found: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(10):
        reading = await read_accounts(simulator, state=state, state_limit=1)
        found += reading.ids
        state = reading.state
        if reading.turns(STREAM)[-1] == "completed":
            break
    assert found == held(simulator, STREAM)
    assert len(simulator.requests) <= 6


async def test_a_list_that_names_the_same_page_for_ever_ends_in_an_error_that_names_it(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(pages_without_end(), path=PATH, times=None)
    before = await read_accounts(simulator)
    assert before.turns(STREAM) == ["started", "errored"]
    [error] = [status.errored.error for status in before.statuses if status.HasField("errored")]
    assert f"GET {PATH}?page=the_end " in error
    assert before.ids == held(simulator, STREAM)
    # Each further request is as short.
    seen = len(simulator.requests)
    after = await read_accounts(simulator, state=before.state)
    assert after.turns(STREAM) == ["started", "errored"]
    assert len(simulator.requests) == seen + 1


async def test_searching_an_object_in_an_endless_list_ends(
    simulator: StripeSimulator,
) -> None:
    """As for an event about an object that no call retrieves."""
    simulator.faults.add(pages_without_end(), path=PATH, times=None)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        with pytest.raises(RequestFailed, match="its pages never end"):
            await ObjectFetcher(client).find(load_resources()[STREAM], "acct_unknown", None)
        found = await ObjectFetcher(client).find(load_resources()[STREAM], "obj_0", None)
    assert found is not None


@pytest.mark.parametrize("fault", [empty_last_page, empty_middle_pages])
async def test_searching_an_object_in_a_list_passes_empty_pages(
    simulator: StripeSimulator, fault: Callable[[], faults.Fault]
) -> None:
    simulator.faults.add(fault(), path=PATH, times=None)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        for object_id in ("obj_0", "obj_49"):
            found = await ObjectFetcher(client).find(load_resources()[STREAM], object_id, None)
            assert found is not None
        assert await ObjectFetcher(client).find(load_resources()[STREAM], "acct_no", None) is None


async def test_an_expired_token_restarts_the_list(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(empty_middle_pages(), path=PATH, times=None)
    before = await read_accounts(simulator, stop_after=2)
    refusal = errors.invalid_request(400, "The page token is not valid.", param="page")
    simulator.faults.add(faults.refuse(refusal), path=PATH)
    after = await read_accounts(simulator, state=before.state)
    assert after.turns(STREAM) == ["started", "completed"]
    assert after.ids == held(simulator, STREAM)


@pytest.mark.parametrize("fault", [empty_last_page, empty_middle_pages])
async def test_empty_pages_mark_no_row_as_deleted(
    simulator: StripeSimulator, fault: Callable[[], faults.Fault]
) -> None:
    rows = Held()
    rows.hold(STREAM, simulator.objects(STREAM).documents())
    rows.hold(STREAM, [{"id": "acct_gone", "created": END}])
    simulator.faults.add(fault(), path=PATH, times=None)
    reading = await read_accounts(simulator, stored_rows=rows, reconcile=True)
    assert reading.turns(STREAM) == ["started", "completed"]
    gone = {one for (_, one), record in reading.records.items() if record.get("deleted")}
    assert gone == {"acct_gone"}
