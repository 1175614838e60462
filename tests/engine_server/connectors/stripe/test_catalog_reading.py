"""Lists with special parameters return all their objects."""

import pytest

from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.mark.parametrize(
    "stream",
    [
        "exchange_rates",  # takes a limit of its own
        "reporting_report_types",  # takes no limit
        "tax_locations",  # must be told which type
        "v2_money_management_financial_accounts",  # must be told every status
    ],
)
async def test_a_list_with_special_parameters_is_read_completely(stream: str) -> None:
    ids = {f"{stream}_{number}" for number in range(130)}
    async with StripeSimulator() as simulator:
        for object_id in ids:
            simulator.objects(stream).put({"id": object_id})
        reading = await read(config_for(simulator), [selected(stream)])
    assert reading.turns(stream) == ["started", "completed"]
    assert reading.ids_of(stream) == ids
    assert reading.ids.total() == len(ids)
