# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as a process: options, start, end, systemd, who may talk to it."""
import os
import signal
import socket
import stat
import subprocess
import tempfile

from qmptest import BIN, Client, Daemon, Skip, eq, run, wait_until

PROGRAM = os.path.join(BIN, "blkctld")


def call(*args, **kw):
    if not os.access(PROGRAM, os.X_OK):
        raise Skip("there is no " + PROGRAM)
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True,
                          timeout=60, **kw)


def test_options():
    """--help, --version, and what is wrong"""
    r = call("--help")
    eq((r.returncode, r.stderr), (0, ""))
    for o in ("--socket", "--foreground", "--pidfile", "--log-level",
              "--version"):
        assert o in r.stdout, o
    r = call("--version")
    eq((r.returncode, r.stderr), (0, ""))
    assert r.stdout.startswith("blkctld "), r.stdout
    for args in (["--bogus"], ["extra"], ["--log-level", "loud"],
                 ["--socket"]):
        r = call(*args)
        eq((r.returncode, r.stdout), (2, ""), args)
        assert r.stderr, args


def test_unusable_socket():
    """a socket that can't be made: one sentence, exit code 1"""
    for path in ("/nonexistent/sock", "/tmp/" + "a" * 200):
        r = call("--foreground", "--socket", path)
        eq(r.returncode, 1)
        assert len(r.stderr.strip().splitlines()) == 1, r.stderr


def test_not_a_socket():
    """a file where the socket should be is not touched"""
    with tempfile.TemporaryDirectory() as dir:
        path = dir + "/file"
        with open(path, "w") as f:
            f.write("mine")
        eq(call("--foreground", "--socket", path).returncode, 1)
        with open(path) as f:
            eq(f.read(), "mine")
        # A pid file that can't be written is not removed either
        os.mkdir(dir + "/pid")
        eq(call("--foreground", "--socket", dir + "/sock",
                "--pidfile", dir + "/pid").returncode, 1)
        assert not os.path.exists(dir + "/sock")


def test_socket_mode():
    """the socket is for root only, and is gone afterwards"""
    old = os.umask(0)
    try:
        with Daemon() as d:
            st = os.lstat(d.sock)
            assert stat.S_ISSOCK(st.st_mode)
            eq(oct(st.st_mode & 0o777), oct(0o600))
            d.stop()
            assert not os.path.exists(d.sock)
    finally:
        os.umask(old)


def test_peer():
    """another user is refused, whatever the mode of the socket"""
    if os.geteuid():
        raise Skip("not root")
    with Daemon() as d:
        os.chmod(d.dir, 0o755)
        os.chmod(d.sock, 0o666)
        pid = os.fork()
        if not pid:
            rc = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                c = Client(d.sock, negotiate=None)
                rc = 0 if c.recv() is None else 2
            finally:
                os._exit(rc)
        eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        d.client().close()


def test_one_only():
    """a second daemon says who is there; the first does not notice"""
    with Daemon() as d, d.client() as c:
        r = call("--foreground", "--socket", d.sock)
        eq(r.returncode, 4)
        assert "another blkctld" in r.stderr, r.stderr
        c.cmd("query-version")
        d.client().close()


def test_killed():
    """after kill -9 the next one takes the stale socket"""
    with Daemon() as d:
        d.kill()
        assert os.path.exists(d.sock)
        d.start()
        d.client().close()


def test_signals():
    """SIGTERM and SIGINT end it with exit code 0, open connections or not"""
    for sig in (signal.SIGTERM, signal.SIGINT):
        with Daemon() as d, d.client() as c:
            c.send('{"execute": "quer')
            d.proc.send_signal(sig)
            eq(c.recv(), None)
            d.stop()


def test_quit():
    """quit is answered, then everything ends"""
    with Daemon() as d, d.client() as c, d.client() as other:
        c.send('{"execute": "quit", "id": 1}{"execute": "quit", "id": 2}')
        eq(c.recv(), {"return": {}, "id": 1})
        eq(c.recv(), None)
        eq(other.recv(), None)
        d.stop()


def test_background():
    """without --foreground: ready when the command returns; --pidfile"""
    with tempfile.TemporaryDirectory() as dir:
        r = call("--socket", "sock", "--pidfile", "pid", cwd=dir)
        if "io_uring is not usable" in r.stderr:
            raise Skip("io_uring is not permitted here")
        eq(r.returncode, 0, r.stderr)
        with open(dir + "/pid") as f:
            pid = int(f.read())
        eq(os.getsid(pid), pid)
        eq(os.readlink("/proc/%d/cwd" % pid), "/")
        with Client(dir + "/sock") as c:
            r = call("--socket", "sock", cwd=dir)
            eq(r.returncode, 4)
            c.cmd("quit")
        wait_until(lambda: not os.path.exists("/proc/%d" % pid), "its end")
        assert not os.path.exists(dir + "/pid")
        assert not os.path.exists(dir + "/sock")


def test_activation():
    """LISTEN_FDS: systemd's socket is used and stays"""
    class Activated(Daemon):
        def start(self):
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.sock)
            self.listener.listen()
            fd = self.listener.fileno()
            self.command = ["bash", "-c",
                            'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&%d' % fd,
                            "bash", *self.command]
            with open(self.log, "wb") as log:
                self.proc = subprocess.Popen(
                    self.command, env=self.env, stdin=subprocess.DEVNULL,
                    stderr=log, pass_fds=(fd,))
            self.wait_ready()

        def cleanup(self):
            super().cleanup()
            self.listener.close()

    with Activated() as d:
        with d.client() as c:
            c.cmd("query-version")
        d.stop()
        assert os.path.exists(d.sock)


def test_notify():
    """NOTIFY_SOCKET: READY=1 when it is ready, STOPPING=1 at the end"""
    with tempfile.TemporaryDirectory() as dir:
        for name in (dir + "/notify", "\0blkctld-test-%d" % os.getpid()):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.bind(name)
                s.settimeout(20)
                env = {"NOTIFY_SOCKET": name.replace("\0", "@")}
                with Daemon(env=env) as d:
                    eq(s.recv(100), b"READY=1")
                    d.client().close()
                    d.stop()
                    eq(s.recv(100), b"STOPPING=1")


def test_protected():
    """as root: memory locked, not for the OOM killer"""
    if os.geteuid():
        raise Skip("not root")
    with Daemon() as d:
        text = d.log_text()
        if "OOM" not in text:
            with open("/proc/%d/oom_score_adj" % d.proc.pid) as f:
                eq(int(f.read()), -1000)
        # A sanitizer's shadow memory can't be locked
        if "lock memory" not in text and d.status("VmSize") < 1 << 30:
            assert d.status("VmLck") > 0


run(globals())
