#!/usr/bin/env python3
"""npoctl where it meets a terminal, disks, other processes, and the page docs/npoctl.md."""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import harness  # noqa: E402
from harness import Failure, check, check_equal, check_in, test  # noqa: E402

PAGE = os.path.join(HERE, "../../../docs/npoctl.md")


def fake_job(box, words="", **more):
    return box.self_npo(name=f"fake {words}", **{"steps": 4, "workers": 1, **more})


def programs(box):
    """Options of `up`: the fake worker computes nothing."""
    return ["--npod", box.programs.npod, "--npoworker", box.programs.fake or box.programs.npoworker]


class Terminal:
    """npoctl on a pseudo-terminal of so many columns."""

    def __init__(self, box, *args, columns=60):
        self.text = b""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execve(box.programs.npoctl, box.ctl_args(*args),
                      {**box.environment(), "TERM": "xterm"})
        self.pid = pid
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, timeout=0.1):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                self.text += os.read(self.fd, 65536)
            except OSError:
                return False
        return True

    def wait_text(self, pattern, timeout=harness.WAIT_S):
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text.decode(errors="replace")):
            check(time.monotonic() < deadline, f"no {pattern!r} in {self.text[-500:]!r}")
            self.read()

    def wait(self, timeout=harness.WAIT_S):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0) and select.select([self.fd], [], [], 0)[0]:
                    pass
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise Failure("npoctl on a terminal does not end")


# ---- a terminal ----

@test
def watch_paints_on_a_terminal(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, "step-ms=20", steps=40, round_steps=20))
    terminal = Terminal(box, "watch", job, columns=60)
    check_equal(terminal.wait(), 0, "exit code")
    text = terminal.text.decode()
    check_in("\x1b[K", text, "output")
    check_in("step 40/40", text, "output")
    for line in re.split(r"\r?\n", re.sub(r"\x1b\[\d*[A-Z]", "", text)):
        check(len(line) <= 60, f"a line of {len(line)} columns: {line!r}")


@test
def ctrl_c_on_a_terminal_leaves_the_job(box):
    box.cluster(workers=1, fake=True)
    spec = box.job_file(fake_job(box, "step-ms=20", steps=100, round_steps=50))
    terminal = Terminal(box, "submit", spec, "--wait")
    terminal.wait_text(r"running")
    os.write(terminal.fd, b"\x03")
    check_equal(terminal.wait(), 130, "exit code")
    check_in("npoctl watch 1", terminal.text.decode(), "output")
    check(box.job(1)["state"] in ("running", "done"), "the job did not go on")
    box.wait_state(1, "done")


@test
def tables_fit_the_terminal(box):
    box.npod()
    box.submit(fake_job(box, "with a rather long name that nobody wants to read to its end"))
    terminal = Terminal(box, "status", columns=80)
    check_equal(terminal.wait(), 0, "exit code")
    for line in terminal.text.decode().splitlines():
        check(len(line) <= 80, f"a line of {len(line)} columns: {line!r}")
    check("\x1b" not in terminal.text.decode(), "a table with escape sequences")


# ---- pipes ----

@test
def a_reader_that_leaves_is_no_crash(box):
    box.npod()
    for i in range(3):
        box.submit(fake_job(box))
    for args in (["status"], ["help"], ["submit", "--help-job"]):
        command = box.ctl_args(*args) if args[0] == "status" else [box.programs.npoctl, *args]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   env=box.environment())
        process.stdout.close()
        check(process.wait(30) in (0, 1), f"{args}: exit code {process.returncode}")


@test
def a_full_disk_is_1(box):
    box.npod()
    with open("/dev/full", "w") as full:
        done = subprocess.run(box.ctl_args("status", "--json"), stdout=full, stderr=subprocess.PIPE,
                              env=box.environment())
    check_equal(done.returncode, 1, "exit code")
    check_in("npoctl: cannot", done.stderr.decode(), "sentence")


@test
def job_file_from_standard_input(box):
    box.npod()
    with open(box.job_file(fake_job(box))) as file:
        done = subprocess.run(box.ctl_args("submit", "-", "--id-only"), stdin=file, capture_output=True,
                              env=box.environment())
    check_equal((done.returncode, done.stdout), (0, b"1\n"), "outcome")


# ---- the plan ----

@test
def dry_run_counts_what_npod_expands(box):
    box.npod()
    jobs = [fake_job(box), fake_job(box, steps=7, workers=2, preview_rounds=3),
            fake_job(box, steps=6, workers=2, pipeline="fused", preview_rounds=1),
            fake_job(box, steps=5, round_steps=5, staleness=1),
            {"recipe": "sample", "model": box.model(), "prompts": ["x"]},
            {"recipe": "diffusion", "model": box.model(), "data": box.data(), "workers": 2,
             "preview_rounds": 2, "train": {"steps": 450, "batch": 4}},
            {"recipe": "classifier", "data": box.data(), "train": {"steps": 250}},
            {"recipe": "evaluate", "model": box.model(), "negative": box.model(2), "workers": 3,
             "prompts": ["x"], "evaluate": {"classifier": box.model(), "data": box.data()}},
            {"recipe": "export", "model": box.model(), "negative": box.model(2)}]
    for spec in jobs:
        path = box.job_file(spec)
        planned = box.ctl("submit", path, "--dry-run", "--json").json
        accepted = box.ctl("submit", path, "--json").json
        check_equal(planned["tasks"], accepted["tasks"], f"tasks of {spec}")
        check_equal(sum(k["tasks"] for k in planned["kinds"]), planned["tasks"], "sum of the kinds")
        kinds = {}
        for task in box.status(accepted["job"])["tasks"]:
            kinds[task["kind"]] = kinds.get(task["kind"], 0) + 1
        check_equal({k["kind"]: k["tasks"] for k in planned["kinds"]}, kinds, f"kinds of {spec}")


@test
def dry_run_needs_no_npod(box):
    start = time.monotonic()
    box.ctl("submit", box.job_file(fake_job(box)), "--dry-run", connect=False)
    box.ctl("submit", box.job_file(fake_job(box)), "--dry-run", "--from", "3@2", connect=False)
    check(time.monotonic() - start < 4, "a dry run waited for npod")


# ---- the page ----

@test
def the_page_lists_the_keys_of_json(box):
    box.cluster(workers=1, fake=True)
    spec = box.job_file(fake_job(box))
    job = box.submit(fake_job(box))
    box.wait_state(job, "done")
    with open(PAGE) as file:
        rows = dict(re.findall(r"^\| `([^`]+ --json)` \| (.*) \|$", file.read(), re.M))
    answers = {
        "status --json": box.ctl("status", "--json").json,
        "status JOB --json": box.status(job),
        "workers --json": box.ctl("workers", "--json").json,
        "submit --json": box.ctl("submit", spec, "--json").json,
        "submit --dry-run --json": box.ctl("submit", spec, "--dry-run", "--json").json,
        "import --json": box.ctl("import", spec, "--json").json,
        "get JOB --json": box.ctl("get", job, "--json").json[0],
    }
    check_equal(set(rows), set(answers), "rows of the page")
    for command, answer in answers.items():
        keys = set(re.findall(r"`(\w+)`", rows[command])) - {"file", "folder"}
        found = set(answer)
        if "kinds" in answer:
            found |= set(answer["kinds"][0])
        check_equal(keys, found, f"keys of {command}")


# ---- up ----

@test
def up_says_why_npod_does_not_start(box):
    os.makedirs(box.state)
    with open(box.state + "/npod.db", "wb") as file:
        file.write(b"this is no database at all, but long enough to be looked at" * 20)
    result = box.ctl("up", "--workers", 1, *programs(box), check_code=1)
    check_in("npoctl: npod ended at once", result.err, "sentence")
    check_equal(box.find_processes(), {}, "left running")
    result = box.ctl("up", "-d", *programs(box), check_code=1)
    check_in("npoctl: npod ended at once", result.err, "sentence of up -d")
    check_equal(box.find_processes(), {}, "left running by up -d")


@test
def up_without_programs_is_2(box):
    result = box.ctl("up", "--npod", box.dir + "/nothing", check_code=2)
    check_in("/nothing' is no program", result.err, "sentence")


@test
def up_on_a_port(box):
    address = f"tcp://127.0.0.1:{harness.free_port()}"
    box.ctl("up", "-d", "--connect", address, *programs(box))
    box.ctl("status", "--connect", address)
    other = box.ctl("up", "--state", box.dir + "/other", "--connect", address, *programs(box),
                    check_code=1, connect=False)
    check_in("npoctl: npod ended at once", other.err, "sentence of a second npod on the port")
    check_in(address, other.err, "sentence of a second npod on the port")
    box.ctl("down")
    check_equal(box.find_processes(), {}, "left running")


@test
def a_second_up_is_refused(box):
    box.ctl("up", "-d", *programs(box))
    for args in ((), ("-d",)):
        result = box.ctl("up", *args, *programs(box), check_code=5)
        check_in(f"'{box.state}' is in use by process", result.err, "sentence")
    check_equal([w["state"] for w in box.workers().values()], ["idle"], "the first one's workers")
    box.ctl("down")
    check_in("nothing runs", box.ctl("down").out, "second down")


@test
def up_starts_npod_again(box):
    up = box.ctl_start("up", *programs(box))
    box.wait_ready(up)
    job = box.submit(fake_job(box, "step-ms=20", steps=60, round_steps=20))
    box.wait_running(job)
    npod, = [pid for pid, line in box.find_processes().items() if line.startswith(box.programs.npod)]
    os.kill(npod, signal.SIGKILL)
    box.wait_state(job, "done")
    check_in("npod ended, signal 9 (Killed)", up.log, "what up said")
    check_equal(up.stop(), 0, "exit code of up")


@test
def watch_outlives_a_restart_of_npod(box):
    up = box.ctl_start("up", *programs(box))
    box.wait_ready(up)
    job = box.submit(fake_job(box, "step-ms=20", steps=60, round_steps=20))
    watching = box.ctl_start("watch", job)
    box.wait_running(job)
    npod, = [pid for pid, line in box.find_processes().items() if line.startswith(box.programs.npod)]
    os.kill(npod, signal.SIGKILL)
    check_equal(watching.wait(), 0, "exit code of watch")


@test
def up_that_is_told_twice_kills(box):
    up = box.ctl_start("up", "--workers", 2, *programs(box))
    box.wait_ready(up)
    box.wait("two workers", lambda: len(box.workers()) == 2)
    stopped = [pid for pid, line in box.find_processes().items()
               if "--connect" in line and "--executor" not in line and "npoworker" in line]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    up.send_signal(signal.SIGINT)
    time.sleep(0.2)
    check(up.is_running(), "up did not wait for its workers")
    up.send_signal(signal.SIGINT)
    up.wait()
    check(time.monotonic() - start < 5, "the second Ctrl-C was not heeded")
    check_equal(box.find_processes(), {}, "left running")


@test
def down_waits_for_the_end(box):
    box.ctl("up", "-d", "--workers", 2, *programs(box))
    box.ctl("down")
    check_equal(box.find_processes(), {}, "left running")


# ---- jobs made from flags ----

@test
def sample_fetches_images(box):
    box.npod()
    box.worker("w1")
    out = box.dir + "/images"
    box.ctl("sample", "--model", box.model(), "-p", "a photo of a bag", "-c", 2, "--steps", 2, "--out", out)
    names = sorted(os.listdir(out))
    check_equal(names, ["grid.png", "image-00000.png", "image-00001.png"], "files")
    box.ctl("sample", "-p", "x", check_code=2)
    box.ctl("sample", "--negative", 77, "-p", "x", check_code=5)


@test
def sample_with_the_network_of_a_job(box):
    box.npod()
    box.worker("w1")
    job = box.submit(box.self_npo(workers=1))
    box.wait_state(job, "done")
    for negative in (str(job), f"{job}@2"):
        out = f"{box.dir}/images-{negative}"
        box.ctl("sample", "-n", negative, "-p", "a photo of a bag", "-c", 1, "--steps", 2, "--out", out)
        check(os.path.exists(out + "/grid.png"), "no grid.png")
    box.ctl("export", f"{job}@2", box.dir + "/at2")
    box.ctl("export", job, box.dir + "/last")
    check(harness.tree_hash(box.dir + "/at2") != harness.tree_hash(box.dir + "/last"),
          "step 2 and the last step gave the same network")


harness.main()
