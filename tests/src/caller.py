"""A program that knows vgemd from the bus alone, by the stock package python3-dbus.

  caller.py ADDRESS WHAT      prints one JSON document; text goes by standard output only
  caller.py ADDRESS peer-WHAT      the same where there is no bus
"""

import gzip
import json
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import time

import dbus
from dbus.bus import BusConnection
from dbus.connection import Connection

TEXT = b"the quick brown fox jumps over the lazy dog. " * 2000
NONE = dbus.Dictionary({}, signature="sv")

if sys.argv[2].startswith("peer-"):
    bus, name, what = Connection(sys.argv[1]), None, sys.argv[2].removeprefix("peer-")
else:
    bus, name, what = BusConnection(sys.argv[1]), "org.vgemd.Broker1", sys.argv[2]
manager = dbus.Interface(bus.get_object(name, "/org/vgemd/Broker1"), "org.vgemd.Broker1.Manager")


def u64(number):
    return dbus.UInt64(number)


def create(length):
    handle, fd = manager.CreateObject(u64(length), NONE)
    return handle, mmap.mmap(fd.take(), length)


def run(device, op, params, operands, options=NONE):
    operands = [(n, u64(h), u64(o), u64(l)) for n, h, o, l in operands]
    job, ended = manager.Run(
        device,
        op,
        dbus.Dictionary(params, signature="sv"),
        dbus.Array(operands, signature="(sttt)"),
        options,
    )
    ended = ended.take()
    ready, _, _ = select.select([ended], [], [], 30)
    assert ready, "the job does not end"
    assert os.read(ended, 8) == (1).to_bytes(8, sys.byteorder)
    return job, manager.JobResult(job, NONE)


def compress():
    source, text = create(len(TEXT))
    packed, room = create(len(TEXT))
    text[:] = TEXT
    operands = [("input", source, 0, len(TEXT)), ("output", packed, 0, 0)]
    job, result = run("zip", "compress", {"format": "gzip", "level": 6}, operands)
    produced = int(result["produced"])
    # Another fd of the same memory, for reading alone.
    fd = manager.ExportObject(packed, "read", NONE).take()
    again = mmap.mmap(fd, len(TEXT), prot=mmap.PROT_READ)
    same = gzip.decompress(room[:produced]) == TEXT == gzip.decompress(again[:produced])
    manager.ForgetJob(job, NONE)
    manager.CloseObject(source, NONE)
    return {"state": str(result["state"]), "produced": produced, "same": same, "of": len(TEXT)}


def fail():
    source, text = create(4096)
    packed, _ = create(4096)
    text[:] = os.urandom(4096)
    operands = [("input", source, 0, 4096), ("output", packed, 0, 64)]
    _, result = run("zip", "compress", {"format": "gzip", "level": 6}, operands)
    explained = manager.Explain(result["cause"], NONE)
    return {
        "state": str(result["state"]),
        "error": str(result["error"]),
        "explained": str(explained["code"]),
        "device": str(explained["device"]),
    }


def session():
    """A session, on which it greets by the bytes of the worked session of SPEC.md."""
    fd = manager.OpenSession(NONE).take()
    link = socket.socket(fileno=fd)
    hello = "40000000 0100 0000 0100000000000000 0000000000000000 1800 000000000000"
    hello += "0100 0100 00000000 0000000000000000 04000000 01000000 64656d6f 00000000"
    link.send(bytes.fromhex(hello))
    welcome = link.recv(4096)
    uid = int.from_bytes(welcome[56:60], "little")
    return {"opcode": int.from_bytes(welcome[4:6], "little"), "domain": uid}


def counters():
    """What the copy device says it has done, before and after a job; and every object that is managed."""
    device = bus.get_object(name, "/org/vgemd/Broker1/devices/copy")
    properties = dbus.Interface(device, "org.freedesktop.DBus.Properties")
    look = lambda: {str(k): int(v) for k, v in properties.Get("org.vgemd.Broker1.Device", "Counters").items()}
    before = look()
    handle, _ = create(4096)
    run("copy", "fill", {"byte": dbus.UInt32(7)}, [("output", handle, 0, 4096)])
    after = look()
    # Who waits for a job learns of its end from the device; the broker counts it a moment later.
    deadline = time.monotonic() + 20
    while (not after or after["in_flight"]) and time.monotonic() < deadline:
        time.sleep(0.01)
        after = look()
    root = bus.get_object(name, "/org/vgemd/Broker1")
    managed = dbus.Interface(root, "org.freedesktop.DBus.ObjectManager").GetManagedObjects()
    return {"before": before, "after": after, "managed": sorted(str(path) for path in managed)}


def why():
    """Two jobs, one after the other, of a device that is stopped: why the second waits."""
    first, _ = create(4096)
    second, _ = create(4096)
    fill = ("copy", "fill", dbus.Dictionary({"byte": dbus.UInt32(7)}, signature="sv"))
    copy = ("copy", "copy", NONE)

    def submit(which, operands):
        operands = [(n, u64(h), u64(0), u64(4096)) for n, h in operands]
        return manager.Run(*which, dbus.Array(operands, signature="(sttt)"), NONE)

    run("copy", "fill", {"byte": dbus.UInt32(1)}, [("output", first, 0, 4096)])
    devices = {device["name"]: device for device in manager.ListDevices(NONE)}
    pids = [int(instance[3]) for instance in devices["copy"]["instances"]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        submit(fill, [("output", first)])
        job, ended = submit(copy, [("input", first), ("output", second)])
        chain = manager.Why(job, NONE)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    ended = ended.take()
    ready, _, _ = select.select([ended], [], [], 30)
    result = manager.JobResult(job, NONE)
    deadline = time.monotonic() + 20
    while manager.Why(job, NONE) and time.monotonic() < deadline:
        time.sleep(0.01)
    return {
        "states": [str(step["state"]) for step in chain],
        "points": [int(step["point"]) for step in chain],
        "pids": sorted({int(step["pid"]) for step in chain}) == sorted(pids),
        "waits": [int(wait[1]) for wait in chain[0]["waits"]],
        "result": str(result["state"]),
        "then": len(manager.Why(job, NONE)),
    }


def who():
    clients = manager.ListClients(NONE)
    return {
        "clients": sorted((int(c["uid"]), int(c["domain"]), int(c["pid"])) for c in clients),
        "pid": os.getpid(),
    }


def told(call):
    """The name of the error that a call ends with, and its text; or nothing."""
    try:
        call()
    except dbus.DBusException as error:
        return [error.get_dbus_name(), error.get_dbus_message()]
    return None


def administer():
    """Everything that only who administers may do, with how each ended."""
    quotas = dbus.Dictionary({"bytes": u64(1 << 20)}, signature="st")
    options = {"quotas": quotas, "uses": dbus.Array(["zip/compress"], signature="s")}
    options = dbus.Dictionary(options, signature="sv", variant_level=0)
    every = dbus.Dictionary({"all": True}, signature="sv")
    ends = {}

    def step(name, call):
        made = []
        ends[name] = told(lambda: made.append(call()))
        return made[0] if made else None

    made = step("create", lambda: manager.MakeDomain("stage", options))
    found = step("see", lambda: manager.ListDomains(every)) or []
    domain = made[0] if made else dbus.UInt32(0xF0000000)
    more = dbus.Dictionary({"objects": u64(7)}, signature="st")
    step("quota", lambda: manager.SetQuota(domain, more, NONE))
    after = told(lambda: found.extend(manager.ListDomains(every)))
    step("disconnect", lambda: manager.Disconnect(u64(999999), NONE))
    answer = {"name": bus.get_unique_name(), "ends": ends}
    if made:
        answer["socket"] = str(made[1])
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answer["serves"] = link.connect_ex(answer["socket"]) == 0
        link.close()
        if after is None:
            last = [entry for entry in found if entry["name"] == "stage"][-1]
            answer["bytes"] = int(last["quotas"]["bytes"][1])
            answer["objects"] = int(last["quotas"]["objects"][1])
            answer["devices"] = [str(device) for device in last["devices"]]
        # The last copy of what holds it.
        os.close(made[2].take())
        deadline = time.monotonic() + 20
        while os.path.exists(answer["socket"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        answer["ended"] = not os.path.exists(answer["socket"])
        made = manager.MakeDomain("stays", dbus.Dictionary({"stays": True}, signature="sv"))
        os.close(made[2].take())
        step("drain", lambda: manager.DrainDomain(made[0], NONE))
        made = manager.MakeDomain("closes", NONE)
        step("close", lambda: manager.CloseDomain(made[0], NONE))
    return answer


def door():
    """A domain at a socket of our own, and how it ends."""
    path = os.path.join(tempfile.mkdtemp(prefix="vgem-test-"), "own.sock")
    listen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listen.bind(path)
    listen.listen()
    close, held = os.pipe()
    options = {"name": "own", "uses": dbus.Array(["zip"], signature="s")}
    options = dbus.Dictionary(options, signature="sv", variant_level=0)
    fds = lambda *all: [dbus.types.UnixFd(fd) for fd in all]
    nameless = dbus.Dictionary({}, signature="sv")
    answer = {
        "nameless": told(lambda: manager.CreateDomain(*fds(listen, close), nameless)),
        "pipe": told(lambda: manager.CreateDomain(*fds(close, close), options)),
    }
    made = []
    answer["create"] = told(lambda: made.extend(manager.CreateDomain(*fds(listen, close), options)))
    os.close(close)
    listen.close()
    answer["made"] = [int(made[0]), str(made[1]) == path] if made else None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(20)
    answer["serves"] = bool(made) and link.connect_ex(path) == 0
    # Creator and bus are not asked any more: the other end of the pipe is what counts.
    os.close(held)
    answer["ended"] = answer["serves"] and is_over(link)
    answer["refuses"] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect_ex(path) != 0
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    return answer


def is_over(link):
    """Whether a connection is ended by its other end."""
    try:
        return link.recv(64) == b""
    except ConnectionResetError:
        return True


def refused():
    """Every way to be refused, with the name of the error."""
    handle, _ = create(4096)
    colour = dbus.Dictionary({"colour": "red"}, signature="sv")
    nothing = dbus.Array([], signature="(sttt)")
    beyond = dbus.Array([("output", handle, u64(0), u64(8192))], signature="(sttt)")
    calls = {
        "option": lambda: manager.ListDevices(colour),
        "access": lambda: manager.ExportObject(handle, "both", NONE),
        "handle": lambda: manager.ExportObject(u64(999), "read", NONE),
        "job": lambda: manager.JobResult(u64(999), NONE),
        "device": lambda: manager.Run("none", "x", NONE, nothing, NONE),
        "op": lambda: manager.Run("zip", "none", NONE, nothing, NONE),
        "beyond": lambda: manager.Run("copy", "fill", {"byte": 1}, beyond, NONE),
        "empty": lambda: manager.CreateObject(u64(0), NONE),
        "huge": lambda: manager.CreateObject(u64(1 << 60), NONE),
        "param": lambda: manager.Run("copy", "fill", {"byte": 1.5}, nothing, NONE),
    }
    told = {}
    for name, call in calls.items():
        try:
            call()
            told[name] = "nothing"
        except dbus.DBusException as error:
            told[name] = [error.get_dbus_name(), error.get_dbus_message()]
    return told


try:
    print(json.dumps(globals()[what]()))
except dbus.DBusException as error:
    print(json.dumps({"refused": error.get_dbus_name(), "text": error.get_dbus_message()}))
