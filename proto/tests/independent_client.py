#!/usr/bin/env python3
"""A client of the vgemd protocol that shares no code with it, written from SPEC.md alone.

    independent_client.py SOCKET            works with a running vgemd, and prints OK
    independent_client.py --session FILE    builds and reads the worked session (golden/session.hex), and prints OK

It uses the standard library only. Numbers in brackets are the MUSTs of SPEC.md that a line is there for.
"""

import array
import ctypes
import fcntl
import json
import mmap
import os
import socket
import stat
import struct
import sys
import threading
import time

# Chapter 2.
HEAD = struct.Struct("<IHHQQH6x")
MESSAGE_LEN = 65536
FDS_MAX = 253

# Chapter 3.
READ, WRITE = 1, 2
DATA, ORDER = 1, 2
DISCARD, INDIRECT = 1, 2
SUBMIT_REPLY = 1
FOR_SUBMIT, PROMISE_REPLY = 1, 1
WAIT, SIGNAL = 1, 2

# Chapter 10.
HELLO, CREATE_OBJECT, COMMIT, CLOSE_OBJECT, EXPORT = 1, 10, 11, 12, 13
OPEN_PORTER, IMPORT, OBSERVE, MONITOR = 14, 15, 16, 42
LIST_DEVICES, DESCRIBE, OPEN_QUEUE, CLOSE_QUEUE = 20, 21, 22, 23
CREATE_TIMELINE, CLOSE_TIMELINE, EXPORT_TIMELINE, IMPORT_TIMELINE = 24, 25, 26, 27
OBSERVE_TIMELINE, TAKE_SHOWN, PROMISE, FAIL_POINT, QUERY_POINT = 28, 29, 32, 33, 34
SUBMIT, CANCEL, EXPLAIN, INSPECT = 30, 31, 40, 41
WELCOME, DONE, REFUSED = 101, 102, 103
OBJECT_CREATED, COMMITTED, EXPORTED = 110, 111, 113
PORTER_OPENED, IMPORTED, OBSERVED, EVENT = 114, 115, 116, 142
DEVICES, DESCRIBED, QUEUE_OPENED = 120, 121, 122
TIMELINE_OPENED, TIMELINE_EXPORTED, TIMELINE_OBSERVED, SHOWN = 123, 124, 125, 126
CAUSE_ISSUED, POINT_STATE = 132, 133
ACCEPTED, CANCELLING, EXPLAINED, PAGE = 130, 131, 140, 141

# Chapter 13.
HAND = 1

# Chapter 14.
MALFORMED, UNKNOWN_OPCODE, NOT_GREETED, VERSION, TOO_LARGE, NO_SUCH_HANDLE = 1, 2, 4, 5, 6, 7
NOT_READY, OUT_OF_RANGE, MISALIGNED = 10, 11, 12
NO_SUCH_OPERATION, BAD_OPERAND, BAD_POINT, DEADLOCK = 14, 15, 16, 19
DENIED, BAD_PARAMETER = 8, 13
REFUSED_BATCH, INDIRECT_TOO_LONG = 68, 69
TIMED_OUT, CANCELLED, CORRUPT_INPUT, OWNER_DIED = 65, 67, 71, 79

# Chapter 8.
FENCE_MAGIC, INTEREST_MAGIC = 0x50464756, 0x49464756
SLOTS, PAGE_LEN = 15, 4096

NEWS = 32

# The kernel's numbers.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4
MADV_POPULATE_WRITE = 23
FUTEX_WAKE, FUTEX_WAIT_BITSET, MATCH_ANY = 1, 9, 0xFFFFFFFF
MEMBARRIER_GLOBAL = 1
SYSCALLS = {"x86_64": {"futex": 202, "membarrier": 324}, "aarch64": {"futex": 98, "membarrier": 283}}
EAGAIN, EINTR, ETIMEDOUT = 11, 4, 110

libc = ctypes.CDLL(None, use_errno=True)


def syscall(name, *arguments):
    """Makes a system call; returns its result, or minus the errno."""
    number = SYSCALLS[os.uname().machine][name]
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(number), *arguments)
    return -ctypes.get_errno() if result == -1 else result


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def check(holds, what):
    if not holds:
        raise AssertionError(what)


# ---------------------------------------------------------------- messages (chapters 2 and 10)


def padded(part):
    return part + bytes(-len(part) % 8)


def message(opcode, request, fields=b"", arrays=(), flags=0, deadline=0):
    """A message: `arrays` are (count, stride, bytes)."""
    fixed = fields + b"".join(struct.pack("<II", count, stride) for count, stride, _ in arrays)
    fixed = padded(fixed)
    body = fixed + b"".join(padded(content) for _, _, content in arrays)
    return HEAD.pack(HEAD.size + len(body), opcode, flags, request, deadline, len(fixed)) + body


def text(words):
    content = words.encode()
    return (len(content), 1, content)


class Message:
    """A message from the broker, read by the size-first rule."""

    def __init__(self, packet, fds=()):
        self.fds = list(fds)
        size, self.opcode, self.flags, self.request, _, fixed = HEAD.unpack_from(packet)
        check(size == len(packet), f"[M-001] size {size} of {len(packet)} bytes")
        self.fixed = packet[HEAD.size : HEAD.size + fixed]
        self.rest = packet[HEAD.size + fixed + (-fixed % 8) :]
        self.at = 0

    def take(self, form):
        """The next fields of the fixed part; what it lacks is zero [M-007]."""
        form = struct.Struct("<" + form)
        part = self.fixed[self.at : self.at + form.size]
        self.at += form.size
        values = form.unpack(part + bytes(form.size - len(part)))
        return values[0] if len(values) == 1 else values

    def array(self, size):
        """The next array, as elements of `size` bytes: its head from the fixed part, its body from the rest."""
        count, stride = self.take("II")
        if count == 0:
            return []
        check(stride > 0, "[M-009] a stride of 0")
        length = count * stride
        body, self.rest = self.rest[:length], self.rest[length + (-length % 8) :]
        elements = [body[n * stride : (n + 1) * stride] for n in range(count)]
        for element in elements:
            check(not any(element[size:]), "[M-008] a longer element is not zero at its end")
        return [element[:size] + bytes(max(0, size - len(element))) for element in elements]

    def arrays(self, *sizes):
        """All arrays of the message, in order."""
        return [self.array(size) for size in sizes]


class Refusal(Exception):
    """The broker's answer to what it did not do."""

    def __init__(self, answer):
        code, job, part, value, limit, cause = answer.take("IHHQQQ")
        (words,) = answer.arrays(1)
        self.code, self.job, self.part = code, job, part
        self.value, self.limit, self.cause = value, limit, cause
        super().__init__(f"code {code}, value {value}, limit {limit}: {b''.join(words).decode()}")


def hello(request, name):
    return message(HELLO, request, struct.pack("<HH4xQ", 1, 1, 0), [text(name)])


def create_object(request, length, name):
    return message(CREATE_OBJECT, request, struct.pack("<QQIB3x", length, 0, 1, 0), [text(name)])


def commit(request, *handles):
    return message(COMMIT, request, arrays=[(len(handles), 8, struct.pack(f"<{len(handles)}Q", *handles))])


def open_queue(request, device, depth, deadline):
    return message(OPEN_QUEUE, request, struct.pack("<QI4x", device, depth), deadline=deadline)


def job(queue, point, op, operands=0, params=0, waits=0, flags=0):
    return struct.pack("<QQQQIHHHHH2x", queue, point, 0, 0, 0, op, flags, operands, params, waits)


def operand(number, obj, offset, length, access, flags=0, cell=(0, 0, 0)):
    cell_object, cell_offset, word = cell
    return struct.pack(
        "<QQQQQBBBB4x", obj, offset, length, cell_object, cell_offset, number, word, access, flags
    )


def param(number, value):
    return struct.pack("<QQQIHBB", value, 0, 0, 0, number, 0, 0)


def submit(request, jobs, operands=(), params=(), waits=(), blob=b"", flags=0):
    lists = [(jobs, 48), (operands, 48), (params, 32), (waits, 32)]
    arrays = [(len(items), size, b"".join(items)) for items, size in lists]
    return message(SUBMIT, request, b"", arrays + [(len(blob), 1, blob)], flags)


# ---------------------------------------------------------------- descriptions (chapter 6)


class Description:
    """What a device says of itself: operations by name."""

    def __init__(self, content):
        self.content, self.at = content, 0
        self.name, self.summary = self.text(), self.text()
        self.executors = self.number("H")
        self.operations = {op["name"]: op for op in self.list(self.operation)}
        check(self.at == len(content), "[M-041] the description goes on after its end")

    def number(self, form):
        form = struct.Struct("<" + form)
        check(self.at + form.size <= len(self.content), "[M-041] the description ends early")
        (value,) = form.unpack_from(self.content, self.at)
        self.at += form.size
        return value

    def text(self):
        length = self.number("H")
        check(self.at + length <= len(self.content), "[M-041] the description ends early")
        self.at += length
        return self.content[self.at - length : self.at].decode()

    def list(self, item):
        return [item() for _ in range(self.number("H"))]

    def operation(self):
        op = {"number": self.number("H"), "idempotent": self.number("H"), "run_ms": self.number("I")}
        op["name"], op["summary"], op["value"] = self.text(), self.text(), self.text()
        op["operands"], op["params"] = self.list(self.operand), self.list(self.param)
        return op

    def operand(self):
        direction, required, touch, zero = (self.number("B") for _ in range(4))
        check(direction in (1, 2, 3, 4) and touch in (1, 2) and zero == 0, "[M-041] an operand")
        align, shortest, longest = self.number("I"), self.number("Q"), self.number("Q")
        return {"direction": direction, "required": required, "align": align,
                "len": (shortest, longest), "name": self.text()}

    def param(self):
        name, summary = self.text(), self.text()
        kind, flag = self.number("B"), self.number("B")
        if kind == 1:
            rest = {"min": self.number("Q"), "max": self.number("Q"), "default": self.number("Q")}
        elif kind == 2:
            rest = {"default": self.number("H"), "words": self.list(self.text)}
        else:
            check(kind == 3, "[M-041] a parameter of no kind")
            rest = {"max_len": self.number("I")}
        return {"name": name, "summary": summary, "kind": kind, "flag": flag} | rest

    def find(self, operation, operands=(), params=()):
        """The operation's number, then the places of operands and parameters, by name."""
        op = self.operations[operation]
        places = [[o["name"] for o in op["operands"]].index(name) for name in operands]
        places += [[p["name"] for p in op["params"]].index(name) for name in params]
        return [op["number"]] + places


# ---------------------------------------------------------------- memory and fences (chapters 5 and 8)


def verified(fd, length, access):
    """[M-030] Checks an fd before it is mapped."""
    seals = fcntl.fcntl(fd, F_GET_SEALS)
    wanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
    check(seals & wanted == wanted, f"[M-031] seals {seals}")
    facts = os.fstat(fd)
    check(stat.S_ISREG(facts.st_mode), "not a regular file")
    check(facts.st_size >= length, f"{facts.st_size} bytes, {length} were promised")
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    check(mode == os.O_RDWR or (access == READ and mode == os.O_RDONLY), f"open mode {mode}")
    return fd


def mapped(fd, length, access):
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if access == WRITE else 0)
    mapping = mmap.mmap(verified(fd, length, access), length, mmap.MAP_SHARED, protection)
    os.close(fd)
    return mapping


def populate(mapping):
    """Touches every page for writing, so that this process pays for it."""
    try:
        mapping.madvise(MADV_POPULATE_WRITE)
    except OSError:
        for at in range(0, len(mapping), PAGE_LEN):
            mapping[at] = mapping[at]


def full_fence():
    """[M-077] A sequentially consistent fence; False where the kernel does not offer one."""
    return syscall("membarrier", ctypes.c_int(MEMBARRIER_GLOBAL), ctypes.c_uint(0), ctypes.c_int(0)) == 0


class FencePage:
    """The observer's side of a pair of pages. CPython neither moves nor tears aligned word accesses [M-070];
    on the machines this runs on loads are not reordered with loads."""

    def __init__(self, page_fd, interest_fd):
        self.page = mapped(page_fd, PAGE_LEN, READ)
        self.interest = mapped(interest_fd, PAGE_LEN, WRITE)
        for pages, magic in ((self.page, FENCE_MAGIC), (self.interest, INTEREST_MAGIC)):
            check(struct.unpack_from("<IHH", pages) == (magic, 1, SLOTS), "not a page of this version")
        self.words32, self.words64 = memoryview(self.page).cast("I"), memoryview(self.page).cast("Q")
        self.want = memoryview(self.interest).cast("Q")
        self.doorbell_address = address_of(self.page) + 8

    def u32(self, at):
        return self.words32[at // 4]

    def u64(self, at):
        return self.words64[at // 8]

    def look(self, slot, generation, point):
        """("pending",), ("ok",), ("failed", code, cause) or ("overrun",): chapter 8.1, word for word."""
        s = 256 * (1 + slot)
        for _ in range(16):
            dead_from, death = self.u64(s + 32), self.u32(64)
            if dead_from != 0 and point >= dead_from:
                return ("failed", self.u32(s + 48), self.u64(s + 40))
            dead = ("failed", death, self.u64(72)) if death != 0 else ("pending",)
            found = self.u32(s)
            if found != generation:
                newer = found != 0 and (found - generation) % 2**32 < 2**31
                return ("overrun",) if newer else dead
            answer = self.ended(s, point) if self.u64(s + 8) >= point else dead
            if answer is not None and self.u32(s) == generation:
                return answer
        return ("overrun",)

    def ended(self, s, point):
        count = self.u32(s + 4)
        if count == 0:
            return ("ok",)
        seen = []
        for entry in range(8):
            at = s + 64 + 24 * entry
            failed = self.u64(at)
            cause, code = self.u64(at + 8), self.u32(at + 16)
            if failed == 0 or self.u64(at) != failed:
                continue
            if failed == point:
                return ("failed", code, cause)
            seen.append((failed, entry))
        if self.u32(s + 4) != count:
            return None
        oldest = min(seen, default=(2**64, None))
        lost = count > 8 or (count == 8 and oldest[1] != 0)
        return ("overrun",) if lost and point < oldest[0] else ("ok",)

    def wait(self, slot, generation, point, deadline):
        """Chapter 8.2. Every sleep has an end [M-078]."""
        try:
            while True:
                seen = self.u32(8)
                self.want[8 + slot] = point
                fenced = full_fence()
                answer = self.look(slot, generation, point)
                if answer != ("pending",):
                    return answer
                if now() >= deadline:
                    return ("timed out",)
                # Without a fence a wake-up can be lost: then no sleep is longer than a few milliseconds.
                self.sleep(seen, deadline if fenced else min(deadline, now() + 5_000_000))
        finally:
            self.want[8 + slot] = 0

    def sleep(self, seen, deadline):
        """[M-076] The shared futex, with an absolute deadline."""
        end = (ctypes.c_long * 2)(deadline // 10**9, deadline % 10**9)
        result = syscall(
            "futex", ctypes.c_void_p(self.doorbell_address), ctypes.c_int(FUTEX_WAIT_BITSET),
            ctypes.c_uint32(seen), ctypes.byref(end), ctypes.c_void_p(None), ctypes.c_uint32(MATCH_ANY),
        )
        check(result in (0, -EAGAIN, -EINTR, -ETIMEDOUT), f"futex: {result}")


class SignalPage:
    """The signaller's side of a pair: chapter 8.3."""

    def __init__(self, page_fd, interest_fd):
        self.page = mapped(page_fd, PAGE_LEN, WRITE)
        self.interest = mapped(interest_fd, PAGE_LEN, READ)
        self.words32, self.words64 = memoryview(self.page).cast("I"), memoryview(self.page).cast("Q")
        self.want, self.news_word = memoryview(self.interest).cast("Q"), memoryview(self.interest).cast("I")
        self.doorbell_address = address_of(self.page) + 8

    def news(self):
        return self.news_word[NEWS // 4]

    def show(self, slot, generation, value, failures=()):
        """A slot with what was signalled so far; the generation last [M-082]."""
        s = 256 * (1 + slot)
        self.words32[s // 4] = 0
        for entry in range(8):
            self.words64[(s + 64 + 24 * entry) // 8] = 0
        self.words32[(s + 4) // 4] = 0
        for failure in failures:
            self.record(s, *failure)
        self.words64[(s + 16) // 8] = now()
        self.words64[(s + 8) // 8] = value
        self.words32[s // 4] = generation
        self.ring(slot, value)

    def record(self, s, point, code, cause):
        """[M-079] A failure, before the value that covers it."""
        count = self.words32[(s + 4) // 4]
        entry = s + 64 + 24 * (count % 8)
        self.words64[entry // 8] = 0
        self.words64[(entry + 8) // 8], self.words32[(entry + 16) // 4] = cause, code
        self.words64[entry // 8] = point
        self.words32[(s + 4) // 4] = count + 1

    def signal(self, slot, point, failure=None):
        s = 256 * (1 + slot)
        check(point > self.words64[(s + 8) // 8], "[M-080] points only grow")
        if failure is not None:
            self.record(s, point, *failure)
        self.words64[(s + 16) // 8] = now()
        self.words64[(s + 8) // 8] = point
        self.ring(slot, point)

    def ring(self, slot, point):
        full_fence()
        if 0 < self.want[8 + slot] <= point:  # [M-081]
            self.words32[2] = (self.words32[2] + 1) % 2**32
            syscall("futex", ctypes.c_void_p(self.doorbell_address), ctypes.c_int(FUTEX_WAKE), ctypes.c_int(1))


def address_of(mapping):
    """Where a mapping is, also a read-only one."""

    class Buffer(ctypes.Structure):
        _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
                    ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
                    ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                    ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p)]

    buffer = Buffer()
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    get(mapping, ctypes.byref(buffer), 0)
    address = buffer.buf
    release(ctypes.byref(buffer))
    return address


# ---------------------------------------------------------------- the client


class Client:
    """One session. A request is answered before the next is sent, except by submit()."""

    def __init__(self, path):
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(30)
        self.link.connect(path)
        self.requests = 0
        self.pages, self.signal_pages = {}, {}

    def number(self):
        self.requests += 1
        return self.requests

    def receive(self):
        room = socket.CMSG_SPACE(4 * FDS_MAX)
        packet, control, flags, _ = self.link.recvmsg(MESSAGE_LEN, room, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        check(packet, "the broker closed the connection")
        check(not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC), "a truncated packet")
        return Message(packet, fds)

    def ask(self, request, opcode, fds=(0,)):
        """Sends a request and receives its answer, which is `opcode` or raises Refusal."""
        self.link.send(request)
        return self.answer(HEAD.unpack_from(request)[3], opcode, fds)

    def answer(self, request, opcode, fds=(0,)):
        answer = self.receive()
        check(answer.request == request, f"[M-017] request {request} answered as {answer.request}")
        if answer.opcode == REFUSED:
            raise Refusal(answer)
        check(answer.opcode == opcode, f"opcode {answer.opcode} where {opcode} was expected")
        check(len(answer.fds) in fds, f"[M-013] {len(answer.fds)} fds with opcode {opcode}")
        return answer

    def hand(self, channel, fd, opcode):
        """Imports an fd: the request on the link, the fd on the channel under the same number [M-131]."""
        request = message(IMPORT, self.number(), arrays=[text("imported")])
        self.link.send(request)
        number = HEAD.unpack_from(request)[3]
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        channel.sendmsg([message(HAND, number)], control)
        return self.answer(number, opcode)

    def refused(self, request, *codes):
        """Sends a request that must be refused with one of these codes."""
        try:
            self.ask(request, -1)
        except Refusal as refusal:
            check(refusal.code in codes, f"expected {codes}: {refusal}")
            return refusal
        raise AssertionError("not refused")

    def greet(self, name):
        welcome = self.ask(hello(self.number(), name), WELCOME)
        _token, _features = welcome.take("16s"), welcome.take("Q")
        _domain, _client = welcome.take("QQ")
        version, _zero, message_len = welcome.take("HHI")
        check((version, message_len) == (1, MESSAGE_LEN), f"version {version}, messages of {message_len}")

    def devices(self):
        answer = self.ask(message(LIST_DEVICES, self.number()), DEVICES)
        ids, names = answer.arrays(8, 1)
        names = b"".join(names).decode().split("\n")
        return dict(zip(names, (struct.unpack("<Q", i)[0] for i in ids)))

    def describe(self, device):
        answer = self.ask(message(DESCRIBE, self.number(), struct.pack("<Q", device)), DESCRIBED)
        check(answer.take("Q") == device, "another device was described")
        (content,) = answer.arrays(1)
        return Description(b"".join(content))

    def create(self, length, name):
        answer = self.ask(create_object(self.number(), length, name), OBJECT_CREATED, (1,))
        got, rights = answer.take("QI4x")
        check((got, rights) == (length, 7), f"{got} bytes, rights {rights}")
        (handle,) = (struct.unpack("<Q", h)[0] for h in answer.array(8))
        return handle, mapped(answer.fds[0], length, WRITE)

    def commit(self, handle):
        return self.ask(commit(self.number(), handle), COMMITTED).take("Q")

    def close_object(self, handle):
        self.ask(message(CLOSE_OBJECT, self.number(), struct.pack("<Q", handle)), DONE)

    def queue(self, device):
        deadline = now() + 20 * 10**9
        answer = self.ask(open_queue(self.number(), device, 0, deadline), QUEUE_OPENED, (0, 2))
        handle, page, _index, generation, depth, slot = answer.take("QQIIIH")
        if answer.fds:
            self.pages[page] = FencePage(*answer.fds)
        check(page in self.pages, "[M-050] a page without its fds")
        check(depth == 256 and slot < SLOTS and generation != 0, "QueueOpened")
        return Queue(handle, self.pages[page], slot, generation)

    def submit(self, *parts, **more):
        """Submits a batch and awaits no answer: there is none if all is well."""
        self.link.send(submit(self.number(), *parts, **more))

    def close(self):
        self.link.close()


class Queue:
    """A queue, where its timeline is shown, and the next point on it."""

    def __init__(self, handle, page, slot, generation):
        self.handle, self.page, self.slot, self.generation = handle, page, slot, generation
        self.next = 1

    def job(self, op, operands=0, params=0, waits=0):
        """The next job of the queue [M-051]."""
        self.next += 1
        return job(self.handle, self.next - 1, op, operands, params, waits)

    def look(self, point):
        return self.page.look(self.slot, self.generation, point)

    def wait(self, point, within=20 * 10**9):
        return self.page.wait(self.slot, self.generation, point, now() + within)


def crc32c(content):
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in content:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


LENGTH = 256 * 1024


class Session:
    """A greeted client with an object of two halves, an object of result cells, and a queue on `copy`."""

    def __init__(self, path):
        self.client = client = Client(path)
        self.greet()
        device = client.devices()["copy"]
        about = client.describe(device)
        check(about.name == "copy", f"the device calls itself {about.name}")
        self.fill, self.fill_output, self.fill_byte = about.find("fill", ["output"], ["byte"])
        self.copy, self.copy_input, self.copy_output, self.copy_result = about.find(
            "copy", ["input", "output", "result"]
        )
        self.crc, self.crc_input, self.crc_result = about.find("crc32c", ["input", "result"])
        self.compare, self.left, self.right, self.verdict, self.equal = about.find(
            "compare", ["left", "right", "result"], ["require_equal"]
        )
        self.data, self.memory = client.create(2 * LENGTH, "two halves")
        request = commit(client.number(), self.data)
        check(client.refused(request, NOT_READY).cause == 0, "[M-033] a Commit without pages")
        populate(self.memory)
        pinned = client.commit(self.data)
        check(0 <= pinned <= 2 * LENGTH, f"[M-034] {pinned} bytes pinned")
        self.cells, self.results = client.create(PAGE_LEN, "cells")
        populate(self.results)
        client.commit(self.cells)
        self.queue = client.queue(device)

    def greet(self):
        client = self.client
        client.refused(message(LIST_DEVICES, client.number()), NOT_GREETED)  # [M-020]
        strange = message(HELLO, client.number(), struct.pack("<HH4xQ", 9, 9, 0), [text("stranger")])
        refusal = client.refused(strange, VERSION)
        check((refusal.value, refusal.limit) == (9, 1), f"[M-022] {refusal}")
        client.greet("independent client")
        client.refused(hello(client.number(), "twice"), MALFORMED)  # [M-021]

    def filling(self, offset, length):
        return operand(self.fill_output, self.data, offset, length, WRITE, DISCARD)

    def cell(self, number, place):
        return operand(number, self.cells, 64 * place, 64, WRITE, DISCARD)

    def batch(self):
        """Fill, copy, and sum as many bytes as the copy produced: one message, no answer."""
        queue = self.queue
        jobs = [queue.job(self.fill, 1, 1), queue.job(self.copy, 3), queue.job(self.crc, 2)]
        operands = [
            self.filling(0, LENGTH),
            operand(self.copy_input, self.data, 0, LENGTH, READ),
            operand(self.copy_output, self.data, LENGTH, LENGTH, WRITE, DISCARD),
            self.cell(self.copy_result, 0),
            operand(self.crc_input, self.data, LENGTH, LENGTH, READ, INDIRECT, (self.cells, 0, 0)),
            self.cell(self.crc_result, 1),
        ]
        self.client.submit(jobs, operands, [param(self.fill_byte, 0xA5)])
        for point in (3, 2, 1):
            check(queue.wait(point) == ("ok",), f"point {point}: {queue.look(point)}")
        check(self.memory[:] == b"\xa5" * (2 * LENGTH), "the memory is not what was asked for")
        produced, _value, started, ended = struct.unpack_from("<QQQQ", self.results, 0)
        check(produced == LENGTH and 0 < started <= ended, f"[M-059] {produced} bytes, {started} to {ended}")
        summed = struct.unpack_from("<Q", self.results, 64 + 8)[0]
        check(summed == crc32c(self.memory[LENGTH:]), f"checksum {summed:#x}")

    def refused_batches(self):
        """A refused batch keeps its points, which fail with its cause [M-053, M-055]; later ones go on."""
        queue, fill, read = self.queue, self.fill, self.crc_input
        young, _memory = self.client.create(PAGE_LEN, "not committed")
        off_cell = operand(self.crc_result, self.cells, 32, 64, WRITE, DISCARD)
        short_cell = operand(self.crc_result, self.cells, 64, 32, WRITE, DISCARD)
        whole = operand(read, self.data, 0, LENGTH, READ)
        outside = operand(read, self.data, 2**64 - 1, 2, READ)
        promised = struct.pack("<QQQB7x", queue.handle, 1000, 0, ORDER)
        for codes, numbers, operands, waits in [
            ([NO_SUCH_OPERATION], (999, 0, 0, 0), [], []),
            ([NOT_READY], (fill, 1, 0, 0), [operand(self.fill_output, young, 0, 64, WRITE, DISCARD)], []),  # [M-035]
            ([MALFORMED], (self.crc, 2, 0, 0), [whole], []),  # [M-052]
            ([MISALIGNED], (self.crc, 2, 0, 0), [whole, off_cell], []),  # [M-060]
            ([OUT_OF_RANGE], (self.crc, 2, 0, 0), [whole, short_cell], []),  # [M-060]
            ([OUT_OF_RANGE], (self.crc, 1, 0, 0), [outside], []),  # [M-054]
            ([BAD_OPERAND], (self.crc, 1, 0, 0), [operand(read, self.data, 0, 64, WRITE)], []),  # [M-054]
            ([BAD_OPERAND], (self.crc, 0, 0, 0), [], []),  # [M-054]
            ([BAD_POINT], (fill, 1, 0, 1), [self.filling(0, 64)], [promised]),  # [M-058]
        ]:
            point = queue.next
            request = submit(self.client.number(), [queue.job(*numbers)], operands, waits=waits)
            refusal = self.client.refused(request, *codes)
            check(refusal.job in (0, 65535) and refusal.cause != 0, f"{refusal}")
            state = queue.wait(point)
            check(state == ("failed", REFUSED_BATCH, refusal.cause), f"[M-055] point {point}: {state}")
        explain = message(EXPLAIN, self.client.number(), struct.pack("<Q", refusal.cause))
        check(self.client.ask(explain, EXPLAINED).take("Q") == refusal.cause, "another cause was explained")
        itself = struct.pack("<QQQB7x", queue.handle, queue.next, 0, ORDER)
        own = submit(self.client.number(), [queue.job(fill, 1, 0, 1)], [self.filling(0, 64)], waits=[itself])
        self.client.refused(own, DEADLOCK)  # [M-058]
        self.client.close_object(young)

    def refused_requests(self):
        """A point that is not the next, a handle that is none, a message that is too long: nothing changes."""
        client, queue = self.client, self.queue
        wrong = client.refused(submit(client.number(), [job(queue.handle, 1000, self.fill)]), BAD_POINT)
        check((wrong.value, wrong.limit, wrong.cause) == (1000, queue.next, 0), f"[M-051] {wrong}")
        client.refused(commit(client.number(), 0xFFFF), NO_SUCH_HANDLE)
        client.link.send(HEAD.pack(100 * 1024, HELLO, 0, 77, 0, 0) + bytes(100 * 1024 - HEAD.size))
        try:
            client.answer(77, -1)
            raise AssertionError("[M-015] 100 KiB were taken")
        except Refusal as refusal:
            found = (refusal.code, refusal.value, refusal.limit)
            check(found == (TOO_LARGE, 102400, MESSAGE_LEN), f"{refusal}")
        noise = HEAD.pack(HEAD.size, 999, 0, 78, 0, 0)
        check(client.refused(noise, UNKNOWN_OPCODE).value == 999, "[M-019]")

    def fds_are_not_taken(self):
        """[M-016] Where the kernel can, it refuses a client's fds; elsewhere they are not looked at."""
        request = message(LIST_DEVICES, self.client.number())
        fds = array.array("i", [self.client.link.fileno()])
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        try:
            self.client.link.sendmsg([request], control)
        except PermissionError:
            return
        check(release < (6, 16), "fds went to the broker")
        self.client.answer(self.client.requests, DEVICES)

    def failures(self):
        """What needs a failed job's result fails with its cause, what only comes later does not."""
        queue = self.queue
        self.memory[0] ^= 0xFF
        first = queue.next
        jobs = [
            queue.job(self.compare, 3, 1),  # the halves differ, and must not
            queue.job(self.copy, 2),  # takes its length from the cell of the comparison [M-057]
            queue.job(self.fill, 1, 1),  # writes what the comparison reads: comes later, that is all [M-056]
            queue.job(self.crc, 2),  # the cell of the first copy says more than is allowed here [M-061]
        ]
        operands = [
            operand(self.left, self.data, 0, LENGTH, READ),
            operand(self.right, self.data, LENGTH, LENGTH, READ),
            self.cell(self.verdict, 2),
            operand(self.copy_input, self.data, 0, LENGTH, READ, INDIRECT, (self.cells, 128, 1)),
            operand(self.copy_output, self.data, LENGTH, LENGTH, WRITE, DISCARD),
            self.filling(0, LENGTH),
            operand(self.crc_input, self.data, LENGTH, LENGTH - 1, READ, INDIRECT, (self.cells, 0, 0)),
            self.cell(self.crc_result, 3),
        ]
        params = [param(self.equal, 1), param(self.fill_byte, 7)]
        # The last job reads what the failed copy was to write: without its flag 2 it would fail for that.
        jobs[3] = job(queue.handle, first + 3, self.crc, 2, flags=2)
        self.client.submit(jobs, operands, params)
        states = [queue.wait(point) for point in range(first, first + 4)]
        check(states[0][0] == "failed" and states[0][2] != 0, f"[M-062] {states}")
        check(states[1] == states[0], f"[M-057] {states}")
        check(states[2] == ("ok",), f"[M-056] {states}")
        check(states[3][:2] == ("failed", INDIRECT_TOO_LONG), f"[M-061] {states}")
        check(self.memory[LENGTH] == 0xA5 and self.memory[LENGTH - 1] == 7, "what failed has written")

    def answered_batch(self):
        """An answer is given if it is asked for, and an earlier failure stays one [M-074]."""
        point = self.queue.next
        client, queue = self.client, self.queue
        parts = ([queue.job(self.fill, 1, 1)], [self.filling(0, 2 * LENGTH)], [param(self.fill_byte, 9)])
        client.ask(submit(client.number(), *parts, flags=SUBMIT_REPLY), ACCEPTED)
        check(queue.wait(point) == ("ok",) and self.memory[LENGTH] == 9, f"point {point}")
        check(queue.look(point - 1)[0] == "failed", "[M-074] a later success hides an earlier failure")

    def sleeping(self):
        """A sleep ends at its deadline, and before it when the point is signalled [M-076, M-077, M-078]: the job
        is submitted once the sleeper has said that it will sleep."""
        queue, point = self.queue, self.queue.next
        check(queue.wait(point, 20_000_000) == ("timed out",), "nobody promised this point")
        states = []
        sleeper = threading.Thread(target=lambda: states.append(queue.wait(point)))
        sleeper.start()
        while queue.page.want[8 + queue.slot] != point:
            time.sleep(0)
        began = now()
        self.client.submit([queue.job(self.fill, 1, 1)], [self.filling(0, LENGTH)], [param(self.fill_byte, 1)])
        sleeper.join()
        check(states == [("ok",)], f"point {point}: {states}")
        check(now() - began < 10 * 10**9, f"[M-077] woken after {now() - began} ns")

    def importing(self):
        """The same memory is the same handle [M-048]; what is no memory is refused by its name [M-046]."""
        client = self.client
        exports = []
        for access in (READ, WRITE):
            request = message(EXPORT, client.number(), struct.pack("<QB7x", self.data, access))
            exports += client.ask(request, EXPORTED, (1,)).fds
        opened = client.ask(message(OPEN_PORTER, client.number()), PORTER_OPENED, (1,))
        with socket.socket(fileno=opened.fds[0]) as channel:
            for export in exports:
                answer = client.hand(channel, export, IMPORTED)
                handle, length, rights, state = answer.take("QQII")
                check((handle, length, rights, state) == (self.data, 2 * LENGTH, 7, 2), f"[M-048] {handle}")
            ours = os.memfd_create("ours", os.MFD_ALLOW_SEALING)
            os.ftruncate(ours, PAGE_LEN)
            foreign, length, rights, state = client.hand(channel, ours, IMPORTED).take("QQII")
            check((length, rights, state) == (PAGE_LEN, 7, 1), f"foreign memory: {length}, {rights}, {state}")
            seals = fcntl.fcntl(ours, F_GET_SEALS)
            check(seals & (F_SEAL_SHRINK | F_SEAL_GROW) == F_SEAL_SHRINK | F_SEAL_GROW, f"seals {seals}")
            memory = mapped(ours, PAGE_LEN, WRITE)
            populate(memory)
            client.commit(foreign)
            client.close_object(foreign)
            odd = os.memfd_create("odd", os.MFD_ALLOW_SEALING)
            os.ftruncate(odd, 5000)
            unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
            os.ftruncate(unsealed, PAGE_LEN)
            looked_at = os.open(f"/proc/self/fd/{unsealed}", os.O_RDONLY)
            for stranger, name in [(os.pipe()[0], "pipe"), (odd, "5000"), (looked_at, "reading only")]:
                try:
                    client.hand(channel, stranger, -1)
                    raise AssertionError(f"[M-046, M-047] {name} was taken")
                except Refusal as refusal:
                    check(name in str(refusal), f"[M-046, M-047] {name} is not named: {refusal}")
        for _ in exports:
            client.close_object(self.data)  # One for each answer; the first handle is left.
        check(client.commit(self.data) >= 0, "the handle went with the imports")

    def observing(self):
        """What a reader has to wait for is the job that writes [M-049], and nothing once that has ended."""
        client, queue, point = self.client, self.queue, self.queue.next
        client.submit([queue.job(self.fill, 1, 1)], [self.filling(0, 2 * LENGTH)], [param(self.fill_byte, 1)])
        request = message(OBSERVE, client.number(), struct.pack("<QB7x", self.data, READ))
        pages, points, poison = client.ask(request, OBSERVED).arrays(8, 32, 32)
        check(poison == [], f"[M-049] {poison}")
        check(pages == [], "[M-050] the page of the client's own queue came again")
        for wait in points:
            _timeline, waited, page, slot, kind = struct.unpack("<QQQHB5x", wait)
            check((waited, page, slot, kind) == (point, 0, queue.slot, DATA), f"[M-049] {waited} in {page}")
        check(queue.wait(point) == ("ok",), f"point {point}")

    def gates(self):
        """A job waits for a promise, and another for a point that is submitted only later [M-058, M-085, M-086]."""
        client, queue = self.client, self.queue
        stage = Stage.create(client, "gate")
        client.ask(stage.promise(1, 10**10, PROMISE_REPLY), DONE)
        wait = lambda handle, point, until, flags: struct.pack("<QQQBB6x", handle, point, until, DATA, flags)
        point = queue.next
        gate = wait(stage.handle, 1, 0, 0)
        client.submit([queue.job(self.fill, 1, 1, 1)], [self.filling(PAGE_LEN, 64)], [param(self.fill_byte, 3)], [gate])
        check(queue.wait(point, 20_000_000) == ("timed out",), "a job that does not wait for a promise")
        stage.signal(1)
        check(queue.wait(point) == ("ok",) and self.memory[PAGE_LEN] == 3, f"{queue.look(point)}")
        second = client.queue(client.devices()["copy"])
        later = wait(second.handle, 1, now() + 10**10, FOR_SUBMIT)
        point = queue.next
        client.submit([queue.job(self.fill, 1, 1, 1)], [self.filling(PAGE_LEN, 64)], [param(self.fill_byte, 4)], [later])
        back = wait(queue.handle, point, 0, 0)
        knot = submit(client.number(), [second.job(self.fill, 1, 1, 1)], [self.filling(0, 64)],
                      [param(self.fill_byte, 5)], [back])
        check("would close a cycle" in str(client.refused(knot, DEADLOCK)), "[M-086]")
        check(queue.wait(point)[0] == "failed", "the refused point has failed, and who waited for it")
        never = wait(second.handle, 9, now() + 5 * 10**7, FOR_SUBMIT)
        point = queue.next
        client.submit([queue.job(self.fill, 1, 1, 1)], [self.filling(PAGE_LEN, 64)], [param(self.fill_byte, 6)], [never])
        check(queue.wait(point)[:2] == ("failed", TIMED_OUT), f"[M-085] {queue.look(point)}")

    def closing(self):
        client = self.client
        client.ask(message(CLOSE_QUEUE, client.number(), struct.pack("<Q", self.queue.handle)), DONE)
        for handle in (self.data, self.cells):
            client.close_object(handle)
        again = message(CLOSE_OBJECT, client.number(), struct.pack("<Q", self.data))
        check(client.refused(again, NO_SUCH_HANDLE).value == self.data, "[M-039]")
        client.close()
        check(self.memory[0] == 1, "[M-024] the memory went with its handle and session")


def monitoring(path):
    """A client that monitors is told what happens in its domain, and how much it missed [M-084]."""
    client = Client(path)
    client.greet("monitor")
    client.ask(message(MONITOR, client.number()), DONE)
    client.link.send(create_object(client.number(), PAGE_LEN, "watched"))
    told, created = [], False
    while not created or "object_created" not in told:
        answer = client.receive()
        if answer.opcode == EVENT:
            check(answer.request == 0, "[M-017] an Event answers nothing")
            check(answer.take("Q") == 0, "[M-084] nothing was left out")
            told.append(json.loads(b"".join(answer.array(1)))["event"])
        else:
            check(answer.opcode == OBJECT_CREATED, f"opcode {answer.opcode}")
            created = True
    client.close()


class Stage:
    """A timeline that a client signals: chapters 7.6 and 8.4."""

    def __init__(self, client, answer):
        self.client, self.value, self.failures = client, 0, []
        self.handle, _index, self.generation, page, self.rights, self.slot = answer.take("QIIQIH")
        self.seen = None
        if self.rights & SIGNAL:
            if answer.fds:
                client.signal_pages[page] = SignalPage(*answer.fds)
            self.home = client.signal_pages[page]
            self.home.show(self.slot, self.generation, 0)
            self.places, self.answered = [(self.home, self.slot)], self.home.news()

    @staticmethod
    def create(client, name):
        return Stage(client, client.ask(message(CREATE_TIMELINE, client.number(), arrays=[text(name)]), TIMELINE_OPENED, (0, 2)))

    def token(self, rights):
        request = message(EXPORT_TIMELINE, self.client.number(), struct.pack("<QI4x", self.handle, rights))
        return self.client.ask(request, TIMELINE_EXPORTED).take("16s")

    @staticmethod
    def imported(client, token):
        request = message(IMPORT_TIMELINE, client.number(), token)
        return Stage(client, client.ask(request, TIMELINE_OPENED, (0, 2)))

    def promise(self, point, within, flags=0):
        fields = struct.pack("<QQQ", self.handle, point, now() + within)
        return message(PROMISE, self.client.number(), fields, flags=flags)

    def signal(self, point, failure=None):
        """In the primary page first, then everywhere else [M-094]; then the news [M-095]."""
        for page, slot in self.places:
            page.signal(slot, point, failure)
        self.value = point
        if failure is not None:
            self.failures.append((point, *failure))
        if self.home.news() != self.answered:
            self.take_shown()

    def fail(self, point, code, words):
        fields = struct.pack("<QQI4x", self.handle, point, code)
        request = message(FAIL_POINT, self.client.number(), fields, [text(words)])
        self.signal(point, (code, self.client.ask(request, CAUSE_ISSUED).take("Q")))

    def take_shown(self):
        answer = self.client.ask(message(TAKE_SHOWN, self.client.number()), SHOWN, (0, 2, 4, 6))
        self.answered, _more = answer.take("I"), answer.take("B3x")
        pages, places, _dropped = answer.arrays(8, 24, 8)
        fds = iter(answer.fds)
        for page in pages:
            self.client.signal_pages[struct.unpack("<Q", page)[0]] = SignalPage(next(fds), next(fds))
        for place in places:
            handle, number, slot, shown = struct.unpack("<QQHB5x", place)
            if handle == self.handle and shown == 1:
                page = self.client.signal_pages[number]
                page.show(slot, self.generation, self.value, self.failures)
                self.places.append((page, slot))

    def observe(self):
        request = message(OBSERVE_TIMELINE, self.client.number(), struct.pack("<Q", self.handle))
        answer = self.client.ask(request, TIMELINE_OBSERVED, (0, 2))
        _index, generation, page, self.promised, slot = answer.take("IIQQH")
        if answer.fds:
            self.client.pages[page] = FencePage(*answer.fds)
        self.seen = (self.client.pages[page], slot, generation)
        return self

    def look(self, point):
        page, slot, generation = self.seen
        return page.look(slot, generation, point)

    def wait(self, point, within=20 * 10**9):
        page, slot, generation = self.seen
        return page.wait(slot, generation, point, now() + within)

    def query(self, point):
        request = message(QUERY_POINT, self.client.number(), struct.pack("<QQ", self.handle, point))
        return self.client.ask(request, POINT_STATE).take("IIQQ")


def signalling(path):
    """Two clients: one signals, the other looks."""
    one, other = Client(path), Client(path)
    one.greet("signals")
    other.greet("looks")
    stage = Stage.create(one, "stage")
    stage.signal(2)
    token = stage.token(WAIT)
    theirs = Stage.imported(other, token).observe()
    check(theirs.look(2) == ("ok",) and theirs.look(3) == ("pending",), "[M-096] a late observer")
    again = message(IMPORT_TIMELINE, other.number(), token)
    other.refused(again, NO_SUCH_HANDLE)  # [M-093]
    more = message(EXPORT_TIMELINE, other.number(), struct.pack("<QI4x", theirs.handle, SIGNAL))
    other.refused(more, DENIED)  # [M-092]
    one.ask(stage.promise(4, 10**10, PROMISE_REPLY), DONE)
    one.refused(stage.promise(4, 10**10, PROMISE_REPLY), BAD_POINT)  # [M-089]
    check(theirs.query(4)[0] == 1 and theirs.query(5)[0] == 0, "a promised point, and one that is not")
    states = []
    sleeper = threading.Thread(target=lambda: states.append(theirs.wait(4)))
    sleeper.start()
    stage.signal(3)  # Finds the news, and takes the place over.
    stage.fail(4, CORRUPT_INPUT, "a bad frame")
    sleeper.join()
    (state,) = states
    check(state[:2] == ("failed", CORRUPT_INPUT), f"{state}")
    explained = other.ask(message(EXPLAIN, other.number(), struct.pack("<Q", state[2])), EXPLAINED)
    check(explained.take("Q") == state[2], "another cause was explained")
    check(theirs.look(3) == ("ok",), "a failure that hides what was before it")
    broken = Stage.create(one, "broken")
    watched = Stage.imported(other, broken.token(WAIT)).observe()
    one.ask(broken.promise(1, 10**8, PROMISE_REPLY), DONE)
    state = watched.wait(1)
    check(state[:2] == ("failed", TIMED_OUT), f"[M-090] {state}")
    one.ask(message(CLOSE_TIMELINE, one.number(), struct.pack("<Q", stage.handle)), DONE)
    check(theirs.wait(5)[:2] == ("failed", CANCELLED), f"[M-091] {theirs.look(5)}")
    moved = Stage.create(one, "moved")
    taken = Stage.imported(other, moved.token(SIGNAL))
    moved.observe()
    taken.signal(1)
    check(moved.wait(1) == ("ok",), f"[M-092] {moved.look(1)}")
    other.close()
    check(moved.wait(2)[:2] == ("failed", OWNER_DIED), f"[M-091] {moved.look(2)}")
    one.close()


def work(path):
    session = Session(path)
    session.batch()
    session.refused_batches()
    session.refused_requests()
    session.fds_are_not_taken()
    session.failures()
    session.answered_batch()
    session.sleeping()
    session.importing()
    session.observing()
    session.gates()
    session.closing()
    monitoring(path)
    signalling(path)


# ---------------------------------------------------------------- the worked session (chapter 16)


def sections(path):
    found = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("["):
                found.append((line.strip()[1:-1], bytearray()))
            elif line.strip() and not line.startswith("#") and ": " not in line:
                found[-1][1].extend(bytes.fromhex(line.split()[1]))
    return found


def session(path):
    """Builds every request of the worked session and reads every answer."""
    messages = dict(sections(path))
    number = lambda name: HEAD.unpack_from(messages[name])[3]
    described = Message(bytes(messages["Described"]))
    device = described.take("Q")
    about = Description(b"".join(described.arrays(1)[0]))
    opened = Message(bytes(messages["QueueOpened"]))
    queue, page, _index, generation, depth, slot = opened.take("QQIIIH")
    check((page, generation, depth, slot) == (0, 1, 256, 0), "QueueOpened")
    created = Message(bytes(messages["ObjectCreated"]))
    length, rights = created.take("QI4x")
    (obj,) = (struct.unpack("<Q", h)[0] for h in created.array(8))
    check((length, rights) == (8192, 7), "ObjectCreated")
    listed = Message(bytes(messages["Devices"]))
    ids, names = listed.arrays(8, 1)
    check((ids, b"".join(names)) == ([struct.pack("<Q", device)], b"copy"), "Devices")
    fill, output, byte = about.find("fill", ["output"], ["byte"])
    crc, crc_input, crc_result = about.find("crc32c", ["input", "result"])
    batch = submit(
        number("Submit"),
        [job(queue, 1, fill, 1, 1), job(queue, 2, crc, 2)],
        [operand(output, obj, 0, 4096, WRITE, DISCARD), operand(crc_input, obj, 0, 4096, READ),
         operand(crc_result, obj, 4096, 64, WRITE, DISCARD)],
        [param(byte, 0xA5)],
    )
    built = {
        "Hello": hello(number("Hello"), "demo"),
        "ListDevices": message(LIST_DEVICES, number("ListDevices")),
        "Describe": message(DESCRIBE, number("Describe"), struct.pack("<Q", device)),
        "CreateObject": create_object(number("CreateObject"), 8192, "frame"),
        "Commit": commit(number("Commit"), obj),
        "OpenQueue": open_queue(number("OpenQueue"), device, 0, 15_000_000_000),
        "Submit": batch,
    }
    for name, content in built.items():
        check(content == messages[name], f"{name} is {content.hex()}, golden {messages[name].hex()}")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--session":
        session(arguments[1])
    elif len(arguments) == 1:
        work(arguments[0])
    else:
        print(__doc__, file=sys.stderr)
        return 64
    print("OK")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
