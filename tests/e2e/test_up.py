#!/usr/bin/env python3
"""`npoctl up` and `down`: what they start, start again, refuse, and leave behind: nothing."""
import os
import signal
import time

import harness
from harness import check, check_equal, check_in, test


def fake_job(box, words="", **more):
    return box.self_npo(name=f"fake {words}", **{"steps": 4, "workers": 1, **more})


def programs(box):
    """Options of `up`: the fake worker computes nothing."""
    return ["--npod", box.programs.npod, "--npoworker", box.programs.fake or box.programs.npoworker]


def up_environment(box):
    """`npoctl up` finds npod and npoworker beside itself, or by PATH."""
    folders = {os.path.dirname(p) for p in (box.programs.npod, box.programs.npoworker)}
    return {"PATH": ":".join([*folders, os.environ["PATH"]])}


@test
def up_in_the_foreground_stops_with_ctrl_c(box):
    up = box.ctl_start("up", "--workers", 2, *programs(box))
    box.wait_ready(up)
    box.wait("two workers", lambda: [w["state"] for w in box.workers().values()] == ["idle"] * 2)
    for args in ((), ("-d",)):
        second = box.ctl("up", *args, *programs(box), check_code=5)
        check_in(f"'{box.state}' is in use by process", second.err, "sentence")
    check_equal([w["state"] for w in box.workers().values()], ["idle"] * 2, "the first one's workers")
    check_equal(up.stop(signal.SIGINT), 0, "exit code of up")
    check_equal(box.find_processes(), {}, "left running")


@test
def up_detached_and_down(box):
    box.ctl("up", "--workers", 2, "-d", env=up_environment(box))
    box.wait("two workers", lambda: [w["state"] for w in box.workers().values()] == ["idle"] * 2)
    job = box.submit(box.self_npo())
    box.wait_state(job, "done")
    box.ctl("down")
    check_equal(box.find_processes(), {}, "left running")
    box.ctl("up", "--workers", 1, "-d", env=up_environment(box))
    check_equal(box.job(job)["state"], "done", "state of the job after up again")
    box.ctl("down")
    check_in("nothing runs", box.ctl("down").out, "second down")


@test
def up_that_is_killed_leaves_nothing_running(box):
    up = box.ctl_start("up", "--workers", 1, *programs(box))
    box.wait_ready(up)
    box.wait("a worker", box.workers)
    up.kill()
    box.wait("all to end", lambda: not box.find_processes())


@test
def up_starts_a_worker_again(box):
    up = box.ctl_start("up", "--workers", 1, *programs(box))
    box.wait_ready(up)
    box.wait("a worker", lambda: [w["state"] for w in box.workers().values()] == ["idle"])
    worker, = [pid for pid, line in box.find_processes().items()
               if line.startswith(programs(box)[3]) and "--executor" not in line]
    os.kill(worker, signal.SIGKILL)
    job = box.submit(fake_job(box))
    box.wait_state(job, "done")


@test
def up_starts_npod_again_and_watch_outlives_it(box):
    up = box.ctl_start("up", *programs(box))
    box.wait_ready(up)
    job = box.submit(fake_job(box, "step-ms=20", steps=60, round_steps=20))
    watching = box.ctl_start("watch", job)
    box.wait_running(job)
    npod, = [pid for pid, line in box.find_processes().items() if line.startswith(box.programs.npod)]
    os.kill(npod, signal.SIGKILL)
    check_equal(watching.wait(), 0, "exit code of watch")
    check_in("npod ended, signal 9 (Killed)", up.log, "what up said")
    check_equal(up.stop(), 0, "exit code of up")


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


harness.main()
