"""Plasma between two processes: WORD COUNT WARM_UP BYTES HERE THERE; prints a JSON list of nanoseconds.

The same script is the second process, with the word "consumer" and the store's socket as a seventh argument.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import pyarrow.plasma as plasma

PAGE = 4096
PATIENCE_MS = 5000


def identity(kind, number):
    return plasma.ObjectID(kind + number.to_bytes(19, "big"))


def sit_on(cores):
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def connect(socket):
    return plasma.connect(socket, num_retries=200)


def put(client, name, payload):
    view = memoryview(client.create(name, len(payload))).cast("B")
    view[:] = payload
    client.seal(name)


def got(client, name):
    [buffer] = client.get_buffers([name], timeout_ms=PATIENCE_MS)
    if buffer is None:
        raise SystemExit("an object did not come")
    return buffer


def produce(client, total, payload):
    times = []
    for number in range(total):
        before = time.monotonic_ns()
        put(client, identity(b"p", number), payload)
        acknowledged = got(client, identity(b"a", number))
        times.append(time.monotonic_ns() - before)
        del acknowledged
        client.delete([identity(b"p", number), identity(b"a", number)])
    return times


def consume(client, total):
    for number in range(total):
        buffer = got(client, identity(b"p", number))
        sum(memoryview(buffer).cast("B")[::PAGE])
        del buffer
        put(client, identity(b"a", number), b"ok")


def set_up(socket, total, payload):
    times = []
    for number in range(total):
        before = time.monotonic_ns()
        client = connect(socket)
        put(client, identity(b"s", number), payload)
        times.append(time.monotonic_ns() - before)
        client.delete([identity(b"s", number)])
        client.disconnect()
    return times


def main():
    word, count, warm_up, size, here, there = sys.argv[1:7]
    total = int(count) + int(warm_up)
    payload = b"\x03" * int(size)
    if word == "consumer":
        sit_on(there)
        consume(connect(sys.argv[7]), total)
        return
    sit_on(here)
    with tempfile.TemporaryDirectory() as folder:
        socket = os.path.join(folder, "plasma")
        program = os.path.join(os.path.dirname(sys.executable), "plasma_store")
        quiet = subprocess.DEVNULL
        store = subprocess.Popen([program, "-m", "268435456", "-s", socket], stdout=quiet, stderr=quiet)
        second = None
        try:
            if word == "setup":
                times = set_up(socket, total, payload)
            else:
                again = [sys.executable, "-W", "ignore", "-c", SOURCE, "consumer", *sys.argv[2:7], socket]
                second = subprocess.Popen(again)
                times = produce(connect(socket), total, payload)
        finally:
            if second is not None:
                second.terminate()
                second.wait()
            store.terminate()
            store.wait()
    json.dump(times[int(warm_up):], sys.stdout)


# A program given with -c finds its own text in the command line of its process.
with open("/proc/self/cmdline", "rb") as line:
    SOURCE = line.read().split(b"\0")[4].decode()

main()
