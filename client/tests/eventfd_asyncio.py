"""Waits with asyncio until the eventfd on fd 0 is readable. It knows nothing of vgem but that."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print("waiting", flush=True)
    async with asyncio.timeout(20):
        await ended.wait()
    loop.remove_reader(0)
    print("ended", flush=True)


asyncio.run(main())
