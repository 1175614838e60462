"""The ``pipelines`` command on a simulated account and a real database."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.processes import CommandResult, run_pipelines
from tests.stripe_simulator.simulator import StripeSimulator


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelinesCommand:
    """A ``pipelines`` command, run as a user would: secrets come from the environment.

    Attributes:
        service: The service's address.
        simulator: The account to read.
        database_url: The database to write to.
    """

    service: str
    simulator: StripeSimulator
    database_url: str

    async def __call__(self, *arguments: str) -> CommandResult:
        """Run the command to its end."""
        return await run_pipelines(
            self.service,
            *arguments,
            environment={
                "TEST_STRIPE_KEY": self.simulator.api_key,
                "TEST_DATABASE_URL": self.database_url,
            },
        )

    async def create(self, pipeline_id: str, streams: Iterable[str], *more: str) -> CommandResult:
        """Create a pipeline from the simulator to the database."""
        return await self(
            *("create", pipeline_id, "--source", "stripe", "--destination", "postgres"),
            *("--source-config", "api_key=@env:TEST_STRIPE_KEY"),
            *("--source-config", f"base_url={self.simulator.base_url}"),
            *("--destination-config", "url=@env:TEST_DATABASE_URL"),
            *(part for stream in streams for part in ("--stream", stream)),
            *more,
        )
