"""Settings of continuous pipelines."""

from pydantic import Field

from pipesync_server.settings import ProgramSettings


class ContinuousSettings(ProgramSettings):
    """Intervals and limits of continuous pipelines."""

    max_running_pipelines: int = Field(
        default=50,
        ge=0,
        description="Continuous pipelines that this process syncs concurrently; 0 leaves them to"
        " other processes.",
    )
    step_seconds: float = Field(
        default=10.0,
        ge=0.1,
        description="Time limit of one step of a continuous pipeline, in seconds. Pausing,"
        " changing and deleting it wait for the step. A page of the source and its flush should fit"
        " in. After a step without progress the limit is doubled, to at most eight times this.",
    )
    poll_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between two polls for events, if the source follows events.",
    )
    read_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Seconds between two reads of new records, since not all changes have events.",
    )
    reconcile_days: float = Field(
        default=7.0,
        gt=0,
        description="Days between two reconciling runs, which read and compare all records.",
    )
    retry_seconds: float = Field(
        default=2.0,
        gt=0,
        description="Delay after a failed step, in seconds; doubled after each further failure.",
    )
    longest_retry_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Maximum of this delay, in seconds; twelve times as long after an error of the"
        " configuration.",
    )
