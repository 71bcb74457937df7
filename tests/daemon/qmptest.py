# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the daemon share: KTAP, a daemon to talk to, a client.

A test is a function whose name begins with test_; its first docstring line is
what KTAP calls it. It fails by an exception and skips by Skip.
"""
import difflib
import json
import os
import pprint
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("BIN", os.path.join(REPO, "build/user/gcc"))
QSD = shutil.which("qemu-storage-daemon")
QEMU_IMG = shutil.which("qemu-img")
# Sanitizers and busy machines make everything slow.
sys.setrecursionlimit(10000)  # for deeply nested JSON
PATIENCE = float(os.environ.get("PATIENCE", "20"))


class Skip(Exception):
    pass


def run(namespace):
    """Runs the tests of a module in the order in which they are written."""
    tests = [(n, f) for n, f in namespace.items() if n.startswith("test_")]
    wanted = sys.argv[1:]
    if wanted:
        tests = [t for t in tests if t[0] in wanted]
    print("KTAP version 1\n1..%d" % len(tests), flush=True)
    failed = skipped = 0
    for i, (name, fn) in enumerate(tests, 1):
        title = (fn.__doc__ or name).split("\n")[0].rstrip(".")
        try:
            fn()
            print("ok %d %s" % (i, title), flush=True)
        except Skip as e:
            skipped += 1
            print("ok %d %s # SKIP %s" % (i, title, e), flush=True)
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d %s" % (i, title), flush=True)
    sys.exit(1 if failed else 4 if skipped == len(tests) else 0)


def eq(have, want, what=""):
    if have != want:
        lines = difflib.unified_diff(pprint.pformat(want).splitlines(),
                                     pprint.pformat(have).splitlines(),
                                     "want", "have", lineterm="", n=1)
        raise AssertionError("%s\n%s" % (what, "\n".join(lines)))


def wait_until(cond, what, seconds=None):
    end = time.monotonic() + (seconds or PATIENCE)
    while time.monotonic() < end:
        if cond():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen: " + what)


class Client:
    """A connection. Messages are dicts; EOF is None."""

    def __init__(self, path, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(path)
        self.buf = b""
        self.events = []
        self.greeting = None
        self.next_id = 0
        if negotiate is not None:
            self.greeting = self.recv()
        if negotiate:
            eq(self.cmd("qmp_capabilities"), {}, "qmp_capabilities")

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.sock.sendall(data)

    def recv_line(self):
        while b"\n" not in self.buf:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                eq(self.buf, b"", "bytes before EOF")
                return None
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        assert line.endswith(b"\r"), line
        return line

    def recv(self):
        line = self.recv_line()
        return None if line is None else json.loads(line)

    def reply(self):
        """The next message that is no event."""
        while True:
            msg = self.recv()
            if msg is None or "event" not in msg:
                return msg
            self.events.append(msg)

    def ask(self, execute, **args):
        """The whole reply."""
        msg = {"execute": execute, "id": self.next_id}
        if args:
            msg["arguments"] = {k.replace("_", "-"): v
                                for k, v in args.items()}
        self.next_id += 1
        self.send(json.dumps(msg))
        reply = self.reply()
        assert reply is not None, "the connection was closed"
        eq(reply.pop("id"), msg["id"], "id")
        return reply

    def cmd(self, execute, **args):
        """What it returns; an error is a failure."""
        reply = self.ask(execute, **args)
        assert "return" in reply, reply
        return reply["return"]

    def err(self, execute, **args):
        """The error that it has to be."""
        reply = self.ask(execute, **args)
        assert "error" in reply, reply
        e = reply["error"]
        eq(set(e), {"class", "desc", "data"}, "members of an error")
        eq(set(e["data"]), {"code", "hint", "errno"}, "members of data")
        return e

    def event(self, name):
        """Waits for it; gives its data."""
        for i, msg in enumerate(self.events):
            if msg["event"] == name:
                return self.events.pop(i)["data"]
        while True:
            msg = self.recv()
            assert msg is not None, "the connection was closed"
            if msg.get("event") == name:
                return msg["data"]
            assert "event" in msg, msg
            self.events.append(msg)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Daemon:
    """A blkctld of one's own, in a directory of one's own."""

    def __init__(self, program=None, env=None, args=()):
        program = program or os.path.join(BIN, "blkctld")
        if not os.access(program, os.X_OK):
            raise Skip("there is no " + program)
        self.dir = tempfile.mkdtemp(prefix="blkctld-test-")
        self.sock = os.path.join(self.dir, "sock")
        self.log = os.path.join(self.dir, "log")
        self.command = [program, "--foreground", "--socket", self.sock,
                        "--log-level", "debug", *args]
        self.env = dict(os.environ, **(env or {}))
        self.start()

    def start(self):
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen(self.command, env=self.env,
                                         stdin=subprocess.DEVNULL, stderr=log)
        self.wait_ready()

    def wait_ready(self):
        wait_until(lambda: "ready on" in self.log_text() or
                   self.proc.poll() is not None, "the daemon's start")
        if self.proc.poll() is not None:
            text = self.log_text()
            self.cleanup()
            if "io_uring is not usable" in text:
                raise Skip("io_uring is not permitted here")
            raise AssertionError("the daemon ended: " + text)

    def log_text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def client(self, negotiate=True):
        return Client(self.sock, negotiate)

    def path(self, name):
        return os.path.join(self.dir, name)

    def image(self, name="disk.qcow2", size="64M", opts=()):
        if not QEMU_IMG:
            raise Skip("there is no qemu-img")
        path = self.path(name)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        except OSError:
            raise Skip("no direct I/O in " + self.dir)
        subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", *opts, path,
                        size], check=True)
        return path

    def status(self, field):
        with open("/proc/%d/status" % self.proc.pid) as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1])
        raise KeyError(field)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def stop(self, want=0):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        rc = self.proc.wait(PATIENCE)
        text = self.log_text()
        for bad in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
                    "runtime error:", "WARNING: ThreadSanitizer"):
            assert bad not in text, text
        eq(rc, want, "exit code")

    def cleanup(self):
        if self.proc.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.stop()
            elif not issubclass(kind, Skip):
                for line in self.log_text().splitlines()[-30:]:
                    print("# log: " + line)
        finally:
            self.cleanup()


class Qemu:
    """QEMU's storage daemon, to compare with."""

    def __init__(self):
        if not QSD:
            raise Skip("there is no qemu-storage-daemon")
        self.dir = tempfile.mkdtemp(prefix="blkctld-test-qsd-")
        self.sock = os.path.join(self.dir, "sock")
        self.proc = subprocess.Popen(
            [QSD, "--chardev", "socket,path=%s,server=on,wait=off,id=c" %
             self.sock, "--monitor", "chardev=c"],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.sock), "QEMU's start")

    def client(self, negotiate=True):
        return Client(self.sock, negotiate)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.kill()
        self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def same_as_qemu(d, c, q, cases):
    """The same inputs to both: the same outcome, and mostly the same words."""
    for execute, args, words in cases:
        a, b = c.ask(execute, **args), q.ask(execute, **args)
        what = json.dumps([execute, args])
        eq(sorted(a), sorted(b), what)
        if "error" not in a:
            continue
        eq(a["error"]["class"], b["error"]["class"], what)
        if words:
            eq(a["error"]["desc"], b["error"]["desc"], what)


def qcow2(node, path, **more):
    return dict({"driver": "qcow2", "node-name": node,
                 "file": {"driver": "file", "filename": path}}, **more)
