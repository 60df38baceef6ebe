"""A free place goes to who has waited longest, and to nobody who has left."""

import asyncio

from sharecap.captions.door import Door


def test_a_free_place_calls_the_first_who_still_waits_and_the_end_calls_all() -> None:
    async def called() -> list[str]:
        door, through = Door(), list[str]()

        async def wait(name: str) -> None:
            await door.wait()
            through.append(name)

        tasks = {name: asyncio.create_task(wait(name)) for name in ("gone", "first", "second", "third")}
        await asyncio.sleep(0)
        tasks["gone"].cancel()
        await asyncio.gather(tasks["gone"], return_exceptions=True)
        door.call(1)
        await tasks["first"]
        assert through == ["first"]
        door.call(0)
        door.call_all()
        await asyncio.gather(tasks["second"], tasks["third"])
        return through

    assert asyncio.run(called()) == ["first", "second", "third"]
