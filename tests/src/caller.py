"""A program that knows vgemd from the bus alone, by the stock package python3-dbus.

  caller.py ADDRESS WHAT      prints one JSON document; text goes by standard output only
"""

import gzip
import json
import mmap
import os
import select
import socket
import sys

import dbus
from dbus.bus import BusConnection

TEXT = b"the quick brown fox jumps over the lazy dog. " * 2000
NONE = dbus.Dictionary({}, signature="sv")

bus = BusConnection(sys.argv[1])
manager = dbus.Interface(
    bus.get_object("org.vgemd.Broker1", "/org/vgemd/Broker1"), "org.vgemd.Broker1.Manager"
)


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


def who():
    clients = manager.ListClients(NONE)
    return {
        "clients": sorted((int(c["uid"]), int(c["domain"]), int(c["pid"])) for c in clients),
        "pid": os.getpid(),
    }


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
    print(json.dumps(globals()[sys.argv[2]]()))
except dbus.DBusException as error:
    print(json.dumps({"refused": error.get_dbus_name(), "text": error.get_dbus_message()}))
