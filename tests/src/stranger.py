"""A process that never spoke to the broker, and does to the fds it is given whatever it is told.

It is written in Python because that reaches every system call, fork without exec included, without a line of unsafe
Rust; and because a stranger should share no code with what it attacks.

Its standard input is a SEQPACKET socket. Each packet is a JSON object {"do": NAME, ...} with fds; each is answered by
one JSON object with fds. What fails is answered {"error": ERRNO NAME}. It ends when the socket closes.

Arguments: --uid N and --gid N become that user; --userns enters a user namespace of its own in which it is root;
--cgroup FILE joins the control group of that cgroup.procs first of all.
"""
import array, ctypes, errno, fcntl, json, mmap, os, random, signal, socket, struct, sys, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for call in (LIBC.munmap, LIBC.mprotect, LIBC.madvise):
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * (0 if call is LIBC.munmap else 1)
PROT_READ, PROT_WRITE, MAP_SHARED = 1, 2, 1
MADV_REMOVE, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 9, 22, 23
F_ADD_SEALS, F_GET_SEALS, F_SETLEASE, F_GETLEASE = 1033, 1034, 1024, 1025
PUNCH_KEEP = 0x02 | 0x01
SYS = {"process_vm_writev": 311, "memfd_secret": 447, "userfaultfd": 323, "pidfd_open": 434, "pidfd_getfd": 438,
       "vmsplice": 278, "io_uring_setup": 425, "futex": 202}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
CLONE_NEWUSER = 0x10000000


def checked(value):
    """The value of a C call, or its errno as an OSError."""
    if value is None or value in (-1, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value


def syscall(name, *args):
    return checked(LIBC.syscall(ctypes.c_long(SYS[name]), *args))


def name_of(error):
    return errno.errorcode.get(error.errno, str(error.errno))


def map_shared(fd, length, prot):
    return checked(LIBC.mmap(None, length, prot, MAP_SHARED, fd, 0))


class Mapped:
    """A mapping that is undone at the end of a with."""

    def __init__(self, fd, length, prot):
        self.at, self.length = map_shared(fd, length, prot), length

    def __enter__(self):
        return self.at

    def __exit__(self, *_):
        LIBC.munmap(self.at, self.length)


# Ways to change, through an fd, memory that one may only read. Each must fail.

def by_mmap(fd, length):
    with Mapped(fd, length, PROT_READ | PROT_WRITE) as at:
        ctypes.memset(at, 0x66, 1)


def by_mprotect(fd, length):
    with Mapped(fd, length, PROT_READ) as at:
        checked(LIBC.mprotect(at, length, PROT_READ | PROT_WRITE))
        ctypes.memset(at, 0x66, 1)


def by_own_mem_file(fd, length):
    with Mapped(fd, length, PROT_READ) as at:
        ctypes.string_at(at, 1)
        mem = os.open("/proc/self/mem", os.O_RDWR)
        try:
            os.pwrite(mem, b"f", at)
        finally:
            os.close(mem)


def by_process_vm_writev(fd, length):
    with Mapped(fd, length, PROT_READ) as at:
        byte = ctypes.create_string_buffer(b"f")
        local = (ctypes.c_size_t * 2)(ctypes.addressof(byte), 1)
        remote = (ctypes.c_size_t * 2)(at, 1)
        syscall("process_vm_writev", os.getpid(), local, 1, remote, 1, 0)


def by_madv_remove(fd, length):
    with Mapped(fd, length, PROT_READ) as at:
        checked(LIBC.madvise(at, length, MADV_REMOVE))


def reopened(fd, flags):
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def by_opening(flags):
    def attack(fd, _length):
        again = reopened(fd, flags)
        try:
            os.pwrite(again, b"f", 0)
        finally:
            os.close(again)
    return attack


def by_path_only(fd, _length):
    """O_PATH needs no permission; opening what it names does."""
    path = reopened(fd, os.O_PATH)
    try:
        by_opening(os.O_RDWR)(path, _length)
    finally:
        os.close(path)


def by_splice(fd, _length):
    reading, writing = os.pipe()
    try:
        os.write(writing, b"f")
        os.splice(reading, fd, 1, offset_dst=0)
    finally:
        os.close(reading), os.close(writing)


def by_sendfile(fd, _length):
    source = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        os.sendfile(fd, source, 0, 1)
    finally:
        os.close(source)


def by_fallocate(fd, length):
    checked(LIBC.fallocate(fd, PUNCH_KEEP, ctypes.c_long(0), ctypes.c_long(length)))


WRITES = {
    "mmap": by_mmap, "mprotect": by_mprotect, "/proc/self/mem": by_own_mem_file,
    "process_vm_writev": by_process_vm_writev, "MADV_REMOVE": by_madv_remove,
    "open O_RDWR": by_opening(os.O_RDWR), "open O_WRONLY": by_opening(os.O_WRONLY),
    "open O_TRUNC": by_opening(os.O_RDWR | os.O_TRUNC), "O_PATH, then open": by_path_only,
    "pwrite": lambda fd, _: os.pwrite(fd, b"f", 0), "splice": by_splice, "sendfile": by_sendfile,
    "fallocate": by_fallocate, "ftruncate": lambda fd, _: os.ftruncate(fd, 0),
    "truncate": lambda fd, _: os.truncate(f"/proc/self/fd/{fd}", 0),
}
SIZES = {
    "ftruncate 0": lambda fd, _: os.ftruncate(fd, 0),
    "ftruncate shorter": lambda fd, length: os.ftruncate(fd, length - 1),
    "ftruncate longer": lambda fd, length: os.ftruncate(fd, length + 4096),
    "fallocate beyond": lambda fd, length: os.posix_fallocate(fd, length, 4096),
    "write beyond": lambda fd, length: os.pwrite(fd, b"f", length),
}
OWNERS = {
    "fchmod 0666": lambda fd, _: os.fchmod(fd, 0o666),
    "chmod": lambda fd, _: os.chmod(f"/proc/self/fd/{fd}", 0o666),
    "fchown": lambda fd, _: os.fchown(fd, os.getuid(), os.getgid()),
    "fchown of the group": lambda fd, _: os.fchown(fd, -1, os.getgid()),
}
SEALS = {f"seal {bit:#x}": (lambda bit: lambda fd, _: fcntl.fcntl(fd, F_ADD_SEALS, bit))(bit)
         for bit in (0x20, 0x10, 0x8, 0x4, 0x2, 0x1, 0x3f)}
LEASES = {
    "a read lease": lambda fd, _: fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK),
    "a write lease": lambda fd, _: fcntl.fcntl(fd, F_SETLEASE, fcntl.F_WRLCK),
}
ATTACKS = {"writes": WRITES, "sizes": SIZES, "owners": OWNERS, "seals": SEALS, "leases": LEASES}


def do_attack(ask, fds):
    """How each attack of a family, or one of it, ended: "done", or the errno."""
    ended = {}
    for name, attack in ATTACKS[ask["family"]].items():
        if ask.get("only", name) != name:
            continue
        try:
            attack(fds[0], ask["len"])
            ended[name] = "done"
        except OSError as error:
            ended[name] = name_of(error)
    return ended, []


def do_steal(ask, _fds):
    """Tries to get at the fds and the memory of another process."""
    def getfd():
        pidfd = syscall("pidfd_open", ask["pid"], 0)
        try:
            os.close(syscall("pidfd_getfd", pidfd, ask["fd"], 0))
        finally:
            os.close(pidfd)
    ways = {
        "pidfd_getfd": getfd,
        "open /proc/PID/fd": lambda: os.close(os.open(f"/proc/{ask['pid']}/fd/{ask['fd']}", os.O_RDWR)),
        "open /proc/PID/mem": lambda: os.close(os.open(f"/proc/{ask['pid']}/mem", os.O_RDWR)),
        "list /proc/PID/map_files": lambda: os.listdir(f"/proc/{ask['pid']}/map_files"),
    }
    ended = {}
    for name, way in ways.items():
        try:
            way()
            ended[name] = "done"
        except OSError as error:
            ended[name] = name_of(error)
    return ended, []


def do_hello(_ask, _fds):
    return {"uid": os.getuid()}, []


# Fds that safe Rust cannot make.

def do_make(ask, _fds):
    kind = ask["kind"]
    if kind == "memfd_secret":
        fd = syscall("memfd_secret", os.O_CLOEXEC)
        os.ftruncate(fd, 4096)
    elif kind == "userfaultfd":
        fd = syscall("userfaultfd", os.O_CLOEXEC | 1)
    else:
        raise OSError(errno.EINVAL, kind)
    return {}, [fd]


def do_send_io_uring(_ask, _fds):
    """Tries to send an io_uring instance to itself."""
    ring = syscall("io_uring_setup", 1, ctypes.create_string_buffer(120))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        socket.send_fds(ours, [b"r"], [ring])
    finally:
        os.close(ring), ours.close(), theirs.close()
    return {}, []


# Holding.

HELD = {}


def do_hold(ask, fds):
    """Keeps memory in one way: as it came, as a mapping alone, as a dup, opened again, in a queue, in a cycle."""
    way, (fd, *_), length = ask["way"], fds, ask["len"]
    kept = []
    if way == "fd":
        kept = [("fd", fd)]
    elif way == "map":
        kept = [("map", map_shared(fd, length, PROT_READ), length)]
        os.close(fd)
    elif way == "dup":
        kept = [("fd", os.dup(fd))]
        os.close(fd)
    elif way == "open":
        kept = [("fd", reopened(fd, os.O_RDONLY))]
        os.close(fd)
    elif way == "queue":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(ours, [b"q"], [fd])
        os.close(fd)
        kept = [("socket", ours), ("socket", theirs)]
    elif way == "cycle":
        # Nobody can read it any more: each end lies in the queue of the other.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        socket.send_fds(ours, [b"c"], [fd, theirs.fileno()])
        socket.send_fds(theirs, [b"c"], [ours.fileno()])
        os.close(fd), os.close(ours.detach()), os.close(theirs.detach())
    elif way == "fork":
        kept = [("child", child_that_holds(fd, length))]
        os.close(fd)
    else:
        raise OSError(errno.EINVAL, way)
    HELD.setdefault(ask["name"], []).extend(kept)
    return {}, []


def child_that_holds(fd, length):
    """A child that inherits a mapping over fork and has no fd of it."""
    at = map_shared(fd, length, PROT_READ)
    ready, said = os.pipe()
    child = os.fork()
    if child == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.closerange(0, said), os.closerange(said + 1, 64)
        os.write(said, b"r")
        while True:
            signal.pause()
    os.read(ready, 1)
    os.close(ready), os.close(said)
    LIBC.munmap(at, length)
    return child


def do_release(ask, _fds):
    """Ends what is held under a name. Answers the moment before the last end, CLOCK_MONOTONIC nanoseconds."""
    at = time.monotonic_ns()
    for kept in HELD.pop(ask["name"]):
        if kept[0] == "fd":
            os.close(kept[1])
        elif kept[0] == "map":
            LIBC.munmap(kept[1], kept[2])
        elif kept[0] == "socket":
            kept[1].close()
        else:
            os.kill(kept[1], signal.SIGKILL)
            os.waitpid(kept[1], 0)
    return {"at_ns": at}, []


def do_connect(ask, _fds):
    """Connects to a socket, so that the peer sees this user; the connection."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(ask["path"])
    return {}, [link.detach()]


def do_flood(ask, _fds):
    """Connects as fast as it can for so many milliseconds, with so many connections open; how often."""
    end = time.monotonic() + ask["ms"] / 1000
    links, often, full = [None] * ask["open"], 0, 0
    while time.monotonic() < end:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            link.connect(ask["path"])
            # What was there is closed.
            links[often % len(links)] = link
            often += 1
        except BlockingIOError:
            full += 1
    return {"often": often, "full": full}, []


def do_passes_rights(_ask, fds):
    """Whether a socket takes fds from its peer (SO_PASSRIGHTS)."""
    with socket.socket(fileno=os.dup(fds[0])) as asked:
        return {"passes": bool(asked.getsockopt(socket.SOL_SOCKET, 83))}, []


def do_write(ask, fds):
    with Mapped(fds[0], ask["offset"] + 1, PROT_READ | PROT_WRITE) as at:
        ctypes.memset(at + ask["offset"], ask["byte"], 1)
    return {}, []


def do_read(ask, fds):
    with Mapped(fds[0], ask["offset"] + ask["len"], PROT_READ) as at:
        return {"bytes": ctypes.string_at(at + ask["offset"], ask["len"]).hex()}, []


def do_touch(ask, fds):
    """Populates memory page by page, so that the limit of a control group is met by a touch."""
    with Mapped(fds[0], ask["len"], PROT_READ | PROT_WRITE) as at:
        checked(LIBC.madvise(at, ask["len"], MADV_POPULATE_WRITE))
    return {}, []


def do_punch_for(ask, fds):
    """Punches for so many milliseconds, with room between for somebody to fill it again; how often."""
    end, count = time.monotonic() + ask["ms"] / 1000, 0
    while time.monotonic() < end:
        by_fallocate(fds[0], ask["len"])
        count += 1
        time.sleep(random.uniform(0, 0.002))
    return {"count": count}, []


def do_reopen_for(ask, fds):
    """Opens and closes for so many milliseconds, without waiting for leases; how often, and how often not."""
    end, count, refused = time.monotonic() + ask["ms"] / 1000, 0, 0
    while time.monotonic() < end:
        for flags in (os.O_RDONLY, os.O_RDWR):
            try:
                os.close(reopened(fds[0], flags | os.O_NONBLOCK))
                count += 1
            except OSError:
                refused += 1
    return {"count": count, "refused": refused}, []


def do_hidden(ask, fds):
    """Keeps references that no probe sees: a path, and pages in a pipe."""
    path = reopened(fds[0], os.O_PATH)
    reading, writing = os.pipe()
    at = map_shared(fds[0], 4096, PROT_READ)
    parts = (ctypes.c_size_t * 2)(at, 4096)
    moved = syscall("vmsplice", writing, parts, ctypes.c_ulong(1), 0)
    LIBC.munmap(at, 4096)
    os.close(fds[0])
    HELD["hidden"] = [("fd", path), ("fd", reading), ("fd", writing)]
    return {"spliced": moved}, []


def do_look_hidden(_ask, _fds):
    """What the hidden references show now."""
    (_, path), (_, reading), _ = HELD["hidden"]
    piped = os.read(reading, 4096)
    try:
        again = reopened(path, os.O_RDONLY)
        read = os.pread(again, 4096, 0).hex()
        os.close(again)
    except OSError as error:
        read = name_of(error)
    return {"piped": piped.hex(), "opened": read}, []


# Rounds.

def do_rounds(ask, fds):
    """A round for each fd: a child plays with it and is killed, with what it forked, at a random moment."""
    seeds = random.Random(ask["seed"])
    checked(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1))
    children = []
    for fd in fds:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            try:
                play(fd, ask["len"], seeds.getrandbits(64))
            finally:
                os._exit(1)
        children.append(child)
        seeds.getrandbits(64)
        os.close(fd)
        # The group is there once either of both has made it.
        try:
            os.setpgid(child, child)
        except PermissionError:
            pass
        end = time.monotonic_ns() + int(seeds.uniform(0, ask["most_us"]) * 1000)
        while time.monotonic_ns() < end:
            pass
        os.killpg(child, signal.SIGKILL)
        reap_group(child)
    return {"rounds": len(children)}, []


def reap_group(group):
    """Waits until nobody of a group is left; as their subreaper we inherit the children of the killed."""
    try:
        while True:
            os.waitpid(-group, 0)
    except ChildProcessError:
        return


def play(fd, length, seed):
    """Maps, duplicates, opens again, forks, sends and lets go, until somebody ends it."""
    chance, fds, pairs = random.Random(seed), [fd], []
    moves = ["map", "dup", "open", "fork", "queue", "close", "unmap"]
    maps = []
    while True:
        move = chance.choice(moves)
        try:
            if move == "map" and fds:
                maps.append(map_shared(chance.choice(fds), length, PROT_READ))
            elif move == "dup" and fds:
                fds.append(os.dup(chance.choice(fds)))
            elif move == "open" and fds:
                fds.append(reopened(chance.choice(fds), chance.choice([os.O_RDONLY, os.O_RDWR, os.O_PATH])))
            elif move == "fork" and os.fork() == 0:
                chance, moves = random.Random(chance.random()), [m for m in moves if m != "fork"]
            elif move == "queue" and fds:
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                socket.send_fds(pair[0], [b"q"], [chance.choice(fds), pair[1].fileno()])
                pairs.append(pair[0])
                pair[1].close()
            elif move == "close" and len(fds) > 1:
                os.close(fds.pop(chance.randrange(len(fds))))
            elif move == "unmap" and maps:
                LIBC.munmap(maps.pop(), length)
        except OSError:
            # No permission, no room: the next move.
            pass


# Memory of its own, for devices to reach.

def do_page(ask, fds):
    """Maps a page of its own: of a file that it was given, which nothing is read of, or with bytes in it."""
    anonymous, private = 0x20, 0x02
    prot = PROT_READ if ask.get("read_only") else PROT_READ | PROT_WRITE
    if fds:
        at = checked(LIBC.mmap(None, 4096, prot, private, fds[0], 0))
    else:
        at = checked(LIBC.mmap(None, 4096, PROT_READ | PROT_WRITE, private | anonymous, -1, 0))
        ctypes.memmove(at, ask["bytes"].encode(), len(ask["bytes"]))
        checked(LIBC.mprotect(at, 4096, prot))
    return {"at": at}, []


def do_peek(ask, _fds):
    return {"bytes": ctypes.string_at(ask["at"], ask["len"]).hex()}, []


def do_own_memory(ask, _fds):
    """Its own memory as an fd."""
    return {}, [os.open("/proc/self/mem", os.O_RDWR if ask["write"] else os.O_RDONLY)]


def do_become(ask, _fds):
    """Executes another program, once this is answered."""
    LATER.append(lambda: os.execv(ask["argv"][0], ask["argv"]))
    return {}, []


LATER = []


# Sleeping where others sleep.

FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE = 0, 1, 3
ALL = 0x7FFFFFFF


def futex(at, op, value, timeout=None, other=None):
    """futex(2) on a word that others may have mapped, too."""
    pointer = lambda address: ctypes.c_void_p(address) if address else None
    return syscall("futex", pointer(at), op, value, timeout, pointer(other), 0)


class Sleepers:
    """Threads that sleep on words of other processes' memory, while it is on."""

    def __init__(self, pages, words, count):
        self.words = [map_shared(fd, length, PROT_READ) + word for fd, length in pages for word in words]
        self.on, self.asleep, self.lock = threading.Event(), 0, threading.Lock()
        threading.stack_size(64 << 10)
        for number in range(count):
            word = self.words[number % len(self.words)]
            threading.Thread(target=self.sleep, args=(word,), daemon=True).start()

    def sleep(self, word):
        while self.on.wait():
            with self.lock:
                self.asleep += 1
            while self.on.is_set():
                try:
                    futex(word, FUTEX_WAIT, ctypes.c_uint32.from_address(word).value)
                except OSError:
                    # It has changed meanwhile.
                    pass
            with self.lock:
                self.asleep -= 1

    def turn(self, on, count):
        if on:
            self.on.set()
        else:
            self.on.clear()
        while self.asleep != (count if on else 0):
            for word in [] if on else self.words:
                futex(word, FUTEX_WAKE, ALL)
            time.sleep(0.001)


def do_sleepers(ask, fds):
    """Makes so many threads that are to sleep on these words of all pages; they begin when they are turned on."""
    HELD["sleepers"] = Sleepers([(fd, ask["len"]) for fd in fds], ask["words"], ask["count"])
    return {}, []


def do_turn_sleepers(ask, _fds):
    HELD["sleepers"].turn(ask["on"], ask["count"])
    return {}, []


def do_requeue(ask, fds):
    """Moves whoever sleeps on these words of a page to another one; how many there were."""
    moved = 0
    with Mapped(fds[0], ask["len"], PROT_READ) as at:
        end = time.monotonic() + ask["for_s"]
        while True:
            for word in ask["words"]:
                count = ctypes.c_void_p(ALL)
                moved += futex(at + word, FUTEX_REQUEUE, 0, count, at + ask["to"])
            if moved or time.monotonic() > end:
                return {"moved": moved}, []


def do_scribble(ask, fds):
    """Writes whatever it likes into pages that it may write, for a while."""
    chance = random.Random(ask["seed"])
    end = time.monotonic() + ask["for_s"]
    maps = [map_shared(fd, ask["len"], PROT_READ | PROT_WRITE) for fd in fds]
    while time.monotonic() < end:
        for at in maps:
            where = chance.randrange(ask["len"] // 8) * 8
            ctypes.memmove(at + where, chance.randbytes(8), 8)
    for at in maps:
        LIBC.munmap(at, ask["len"])
    return {}, []


# Being somebody else.

def become(args):
    if "--cgroup" in args:
        with open(args["--cgroup"], "w") as procs:
            procs.write("0")
    if "--gid" in args or "--uid" in args:
        gid, uid = int(args.get("--gid", args.get("--uid"))), int(args.get("--uid", "0"))
        os.setgroups([]), os.setresgid(gid, gid, gid), os.setresuid(uid, uid, uid)
        # A change of user takes a process's own /proc files away from it; a program started by that user has them.
        checked(LIBC.prctl(PR_SET_DUMPABLE, 1))
    if "--userns" in args:
        uid, gid = os.getuid(), os.getgid()
        checked(LIBC.unshare(CLONE_NEWUSER))
        for file, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{file}", "w") as map_file:
                map_file.write(line)
        os.setresgid(0, 0, 0), os.setresuid(0, 0, 0)
        checked(LIBC.prctl(PR_SET_DUMPABLE, 1))


def serve():
    link = socket.socket(fileno=0)
    while True:
        packet, fds, _, _ = socket.recv_fds(link, 65536, 253)
        if not packet:
            return
        ask = json.loads(packet)
        try:
            answer, back = globals()["do_" + ask["do"]](ask, fds)
        except OSError as error:
            answer, back = {"error": name_of(error)}, []
        if not ask.get("keep", ask["do"] in ("hold", "hidden", "rounds", "page")):
            for fd in fds:
                os.close(fd)
        socket.send_fds(link, [json.dumps(answer).encode()], back)
        for fd in back:
            os.close(fd)
        for later in LATER:
            later()


if __name__ == "__main__":
    words = sys.argv[1:]
    become({word: words[at + 1] if at + 1 < len(words) else "" for at, word in enumerate(words)
            if word.startswith("--")})
    serve()
