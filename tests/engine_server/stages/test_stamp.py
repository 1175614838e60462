"""Every message says who emitted it, and when."""

import time

from engine_server.stages.stamp import stamp
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import checkpoint


async def test_a_message_without_an_origin_gets_one_and_the_time() -> None:
    before = time.time_ns()
    (message,) = await gathered(stamp(given(checkpoint("a")), "source/x"))
    assert message.emitted_by == "source/x"
    assert before <= message.ts.ToNanoseconds() <= time.time_ns()


async def test_an_origin_stays_and_so_does_its_time() -> None:
    message = checkpoint("a")
    message.emitted_by = "source/x"
    message.ts.FromSeconds(5)
    (stamped,) = await gathered(stamp(given(message), "destination/y"))
    assert stamped.emitted_by == "source/x"
    assert stamped.ts.ToSeconds() == 5
