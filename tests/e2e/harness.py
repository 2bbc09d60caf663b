"""Real npod, npoworker and npoctl processes in a temporary folder, and the waiting, killing and
cleaning up around them.

    @test
    def cancel_ends_a_job(box):
        box.npod()
        box.worker()
        job = box.submit(box.self_npo(steps=1000))
        ...

Every test gets a Box of its own. Nothing is waited for by sleeping a fixed time: Box.wait looks until
something holds or a deadline passes. When a test ends, all its processes are stopped; one that is left
over (found by a mark in its environment, so a detached one too) fails the test and is killed."""
import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import tiny_model

LONG = os.environ.get("NPO_TEST_LONG") == "1"
POLL_S = 0.02
WAIT_S = 30.0 * float(os.environ.get("NPO_TEST_TIMEOUT_SCALE", "1"))
LEASE_MS = 2000
LOG_TAIL_LINES = 40
MARK = "NPO_TEST_BOX"

tests = []


class Skip(Exception):
    """Something the test needs is truly absent here."""


class Failure(Exception):
    pass


def test(function):
    tests.append(function)
    return function


def check(condition, text):
    if not condition:
        raise Failure(text)


def check_equal(found, expected, what="value"):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def check_in(part, whole, what="text"):
    check(part in whole, f"{what}: expected {part!r} in:\n{whole}")


class Result:
    """What a program that has ended said."""

    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err

    @property
    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise Failure(f"{self}: not JSON") from None

    def __str__(self):
        return f"{' '.join(self.args)} -> {self.code}\n{self.out}{self.err}"


class Process:
    """A program that runs in its own process group with its output in a file."""

    def __init__(self, box, name, args, env):
        self.name, self.args = name, [str(a) for a in args]
        self.log_path = os.path.join(box.dir, name + ".log")
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=box.environment(env), start_new_session=True)

    @property
    def pid(self):
        return self.popen.pid

    @property
    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def is_running(self):
        return self.popen.poll() is None

    def send_signal(self, number, group=False):
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout=WAIT_S):
        """The exit code, below 0 for a signal."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} still runs after {timeout:.0f} s") from None

    def stop(self, number=signal.SIGTERM, timeout=WAIT_S):
        self.send_signal(number)
        return self.wait(timeout)

    def kill(self):
        """kill -9 of this process alone: what it leaves behind is the test's matter."""
        return self.stop(signal.SIGKILL)


class Box:
    """A state folder, the programs that work on it, and a tiny model."""

    def __init__(self, programs, name):
        self.programs, self.name = programs, name
        self.dir = tempfile.mkdtemp(prefix="npo-", dir=programs.tmp)
        self.mark = os.path.basename(self.dir)
        self.state = os.path.join(self.dir, "s")
        self.processes, self.logs, self.cleanups, self.count = [], {}, [], 0

    # ---- processes ----

    def environment(self, extra=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith("NPO_")}
        env.update({MARK: self.mark, "OMP_WAIT_POLICY": "passive", "TERM": "dumb"})
        env.update(extra or {})
        return env

    def start(self, name, *args, env=None):
        process = Process(self, name, args, env)
        self.processes.append(process)
        return process

    def npod(self, *args, env=None, lease_ms=LEASE_MS, ready=True, name="npod"):
        process = self.start(name, self.programs.npod, "--state", self.state, "--lease-ms", lease_ms,
                             *args, env=env)
        if ready:
            self.wait_ready(process)
        return process

    def wait_ready(self, process):
        def ready():
            check(process.is_running(), f"{process.name} has ended: {process.popen.returncode}")
            return self.ctl("status", "--json", check_code=None).code == 0
        self.wait("npod to answer", ready)

    def worker(self, name="w1", *args, threads=1, fake=False, env=None):
        program = self.programs.fake if fake else self.programs.npoworker
        if fake and not program:
            raise Skip("no npoworker-fake in this build")
        folder = os.path.join(self.dir, name)
        os.makedirs(folder, exist_ok=True)
        return self.start(name, program, "--connect", self.address, "--state", folder, "--cache",
                          folder + "/cache", "--name", name, "--threads", threads, *args, env=env)

    def cluster(self, workers=2, fake=False, **npod_options):
        self.npod(**npod_options)
        return [self.worker(f"w{i + 1}", fake=fake) for i in range(workers)]

    @property
    def address(self):
        return "ipc://" + self.state + "/npod.sock"

    def ctl_args(self, *args, connect=True):
        # The coordinator stands behind the command's name, with its other options.
        where = ["--state", self.state] if connect else []
        return [self.programs.npoctl, str(args[0]), *where, *map(str, args[1:])] if args else \
            [self.programs.npoctl]

    def ctl(self, *args, check_code=0, timeout=120.0, env=None, connect=True, cwd=None):
        args = self.ctl_args(*args, connect=connect)
        try:
            done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                                  env=self.environment(env), cwd=cwd or self.dir)
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(args)} still runs after {timeout:.0f} s") from None
        result = Result(["npoctl", *args[1:]], done.returncode, done.stdout.decode(errors="replace"),
                        done.stderr.decode(errors="replace"))
        if check_code is not None:
            check(result.code == check_code, f"expected exit code {check_code}: {result}")
        return result

    def ctl_start(self, *args, env=None):
        self.count += 1
        return self.start(f"npoctl-{self.count}", *self.ctl_args(*args), env=env)

    def find_processes(self):
        """Everything that carries this box's mark and is not a zombie: {pid: command line}."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if f"{MARK}={self.mark}".encode() not in file.read().split(b"\0"):
                        continue
                with open(f"/proc/{pid}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        continue
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    found[int(pid)] = file.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
        return found

    def executors_of(self, process):
        """Children of a supervisor."""
        try:
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []

    # ---- waiting ----

    def wait(self, what, predicate, timeout=WAIT_S):
        """Returns the first true value of predicate()."""
        deadline = time.monotonic() + timeout
        while True:
            value = predicate()
            if value:
                return value
            if time.monotonic() > deadline:
                raise Failure(f"waited {timeout:.0f} s for {what}")
            time.sleep(POLL_S)

    # ---- jobs ----

    def model(self, seed=1):
        path = os.path.join(self.dir, f"model{seed}")
        if not os.path.exists(path):
            tiny_model.make(path, seed)
        return path

    def data(self):
        path = os.path.join(self.dir, "data")
        if not os.path.exists(path):
            tiny_model.make_data(path)
        return path

    def self_npo(self, steps=4, workers=2, round_steps=2, batch=4, lr=1e-3, **more):
        train = {"steps": steps, "batch": batch, "micro_batch": batch // workers, "lr": lr}
        train.update(more.pop("train", {}))
        return {"recipe": "self-npo", "model": self.model(), "workers": workers, "seed": 7,
                "round_steps": round_steps, "prompts": tiny_model.PROMPTS, "train": train, **more}

    def long_job(self, workers=1, **more):
        """One that is certain to run until it is stopped."""
        return self.self_npo(steps=100000, workers=workers, round_steps=1000, **more)

    def write(self, name, content):
        path = os.path.join(self.dir, name)
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content, indent=1)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def job_file(self, spec):
        self.count += 1
        return self.write(f"job-{self.count}.json", spec)

    def submit(self, spec, *args):
        out = self.ctl("submit", self.job_file(spec), "--id-only", *args).out.strip()
        check(out.isdigit(), f"submit printed {out!r}, expected a job id")
        return int(out)

    def status(self, job):
        """The whole answer: job, tasks, outputs, checkpoints."""
        return self.ctl("status", job, "--json").json

    def job(self, job):
        return self.status(job)["job"]

    def wait_state(self, job, *states, timeout=WAIT_S):
        seen = {}

        def reached():
            seen.update(self.job(job))
            ended = seen["state"] in ("done", "failed", "cancelled")
            check(seen["state"] in states or not ended,
                  f"job {job} is {seen['state']}, expected {' or '.join(states)}: {seen.get('error')}")
            return seen["state"] in states
        self.wait(f"job {job} to be {' or '.join(states)}", reached, timeout)
        return seen

    def wait_running(self, job, kind=None):
        """Until a task of the job (of that kind) is at work on a worker."""
        def at_work():
            return any(t["state"] == "running" and kind in (None, t["kind"])
                       for t in self.status(job)["tasks"])
        self.wait(f"a task of job {job} to run", at_work)

    def outputs(self, job):
        """{(round, name): hash} of everything a job has made: equal jobs have equal ones."""
        return {(o["round"], o["name"]): o["hash"] for o in self.status(job)["outputs"]}

    def workers(self):
        return {w["name"]: w for w in self.ctl("workers", "--json").json["workers"]}

    def wait_workers(self, state, *names):
        self.wait(f"workers {names} to be {state}",
                  lambda: all(self.workers().get(n, {}).get("state") == state for n in names))

    # ---- the end ----

    def close(self):
        """Stops everything in order; what is left over is killed and returned."""
        for cleanup in reversed(self.cleanups):
            cleanup()
        for process in self.processes:
            process.send_signal(signal.SIGCONT, group=True)
        # Workers before npod: their goodbye wants an answer.
        coordinators = [p for p in self.processes if p.name == "npod"]
        self.terminate([p for p in self.processes if p not in coordinators])
        self.terminate(coordinators)
        deadline = time.monotonic() + 5
        while self.find_processes() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        left = self.find_processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            with contextlib.suppress(Failure):
                process.wait(5)
        return left

    @staticmethod
    def terminate(processes):
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while any(p.is_running() for p in processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def print_logs(self):
        for path in sorted({p.log_path for p in self.processes}):
            with open(path, errors="replace") as file:
                lines = file.read().splitlines()
            print(f"---- {os.path.basename(path)} ({len(lines)} lines)")
            print("\n".join(lines[-LOG_TAIL_LINES:]))

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def tree_hash(path):
    """One digest of a file, or of every file of a folder with its name."""
    digest = hashlib.sha256()
    files = [path] if os.path.isfile(path) else sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    check(files, f"nothing in {path}")
    for file in files:
        digest.update(os.path.relpath(file, path).encode() + b"\0")
        with open(file, "rb") as content:
            digest.update(hashlib.sha256(content.read()).digest())
    return digest.hexdigest()


def free_port():
    """The first of three neighbouring ports that nobody listens on."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        if port > 65000:
            continue
        with contextlib.ExitStack() as stack:
            try:
                for i in range(3):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + i))
            except OSError:
                continue
            return port


def crash_points(program):
    out = subprocess.run([program, "--crash-points"], capture_output=True, check=True).stdout.decode()
    return out.split()


def parse_arguments():
    parser = argparse.ArgumentParser(description="end-to-end tests")
    parser.add_argument("--build", default="build/release", help="where the programs were built")
    parser.add_argument("--npod")
    parser.add_argument("--npoworker")
    parser.add_argument("--npoctl")
    parser.add_argument("--fake", help="npoworker-fake")
    parser.add_argument("--tmp", default="/tmp", help="where the boxes stand (short: sockets are in them)")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("-k", default="", help="only tests whose name matches this expression")
    parser.add_argument("-v", action="store_true", help="the logs of every test")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    args = parser.parse_args()
    default = {"npod": "server/npod", "npoworker": "worker/npoworker", "npoctl": "ctl/npoctl",
               "fake": "tests/fake/npoworker-fake"}
    for name, path in default.items():
        path = os.path.abspath(getattr(args, name) or os.path.join(args.build, path))
        setattr(args, name, path if os.path.exists(path) else None)
        if not getattr(args, name) and name != "fake":
            parser.error(f"{path} is not there: build it, or say --{name}")
    return args


def run_one(function, args):
    """'passed', 'failed' or 'skipped'."""
    box = Box(args, function.__name__)
    outcome, text = "passed", ""
    try:
        function(box)
    except Skip as skip:
        outcome, text = "skipped", str(skip)
    except Failure as failure:
        frame = [f for f in traceback.extract_tb(failure.__traceback__) if f.filename != __file__][-1]
        outcome, text = "failed", f"line {frame.lineno}: {failure}"
    except Exception:
        outcome, text = "failed", traceback.format_exc()
    left = box.close()
    if left:
        outcome, text = "failed", text + "\nleft running:\n" + "\n".join(
            f"  {pid} {line}" for pid, line in left.items())
    return box, outcome, text


def report(box, outcome, text, seconds, args):
    print(f"{outcome.upper():7} {box.name} ({seconds:.1f} s)" + (f": {text}" if text else ""))
    if outcome == "failed" or args.v:
        box.print_logs()
    if args.keep:
        print(f"        {box.dir}")
    else:
        box.remove()
    sys.stdout.flush()


def main(args=None):
    """Runs the tests, --jobs at a time (most of what they do is wait), and prints them in order."""
    args = args or parse_arguments()
    count = {"passed": 0, "failed": 0, "skipped": 0}
    chosen = [function for function in tests if re.search(args.k, function.__name__)]

    def timed(function):
        start = time.monotonic()
        return (*run_one(function, args), time.monotonic() - start)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for box, outcome, text, seconds in pool.map(timed, chosen):
            count[outcome] += 1
            report(box, outcome, text, seconds, args)
    tail = f", {count['skipped']} skipped" if count["skipped"] else ""
    print(f"{count['passed']} passed, {count['failed']} failed{tail}")
    sys.exit(1 if count["failed"] or not count["passed"] + count["skipped"] else 0)
