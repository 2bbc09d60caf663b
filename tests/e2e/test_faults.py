#!/usr/bin/env python3
"""What goes wrong in a life: cancelled and held jobs, failing tasks, workers that vanish, restarts, full
disks, taken ports, wrong databases, hostile peers. Mostly with npoworker-fake, whose tasks do as the
job's name says."""
import errno
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import time

import harness
from harness import WAIT_S, Skip, check, check_equal, check_in, test
from wire import Wire, hostile_frames, hostile_streams


def fake_job(box, words="", steps=4, workers=2, **more):
    more.setdefault("round_steps", max(2, steps // 4))
    return box.self_npo(name=f"fake {words}", steps=steps, workers=workers, **more)


def endless(box, workers=2, **more):
    """Runs until it is stopped: tasks of minutes."""
    return fake_job(box, "step-ms=50", steps=100000, round_steps=5000, workers=workers, **more)


def database(box):
    names = [n for n in os.listdir(box.state) if n.endswith((".db", ".sqlite", ".sqlite3"))]
    check_equal(len(names), 1, f"databases in {os.listdir(box.state)}")
    return os.path.join(box.state, names[0])


# ---- people change their minds ----

@test
def cancel_ends_a_running_job(box):
    box.cluster(fake=True)
    job = box.submit(endless(box))
    box.wait_running(job)
    box.ctl("cancel", job)
    box.wait_state(job, "cancelled")
    box.wait_workers("idle", "w1", "w2")
    after = box.submit(fake_job(box))
    box.wait_state(after, "done")


@test
def cancel_ends_a_task_that_hangs(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, "hang=generate", workers=1))
    box.wait_running(job)
    box.ctl("cancel", job)
    box.wait_state(job, "cancelled")
    after = box.submit(fake_job(box, workers=1))
    box.wait_state(after, "done")


@test
def cancel_ends_a_pending_job(box):
    box.npod()
    job = box.submit(fake_job(box))
    box.ctl("cancel", job)
    check_equal(box.job(job)["state"], "cancelled", "state")


@test
def hold_gives_workers_back_and_release_goes_on(box):
    box.cluster(fake=True)
    undisturbed = box.submit(fake_job(box, "step-ms=2", steps=40))
    box.wait_state(undisturbed, "done")
    job = box.submit(fake_job(box, "step-ms=2", steps=40))
    box.wait_running(job)
    box.ctl("hold", job)
    box.wait_state(job, "held")
    box.wait_workers("idle", "w1", "w2")
    other = box.submit(fake_job(box, seed=8))
    box.wait_state(other, "done")
    check_equal(box.job(job)["state"], "held", "state")
    box.ctl("release", job)
    box.wait_state(job, "done")
    check_equal(box.outputs(job), box.outputs(undisturbed), "outputs")


@test
def priority_goes_first_and_after_waits(box):
    box.npod()
    low = box.submit(fake_job(box, workers=1, priority=0))
    high = box.submit(fake_job(box, workers=1, priority=5))
    last = box.submit(fake_job(box, workers=1, priority=9, after=[low]))
    box.worker("w1", fake=True)
    for job in (low, high, last):
        box.wait_state(job, "done")
    ended = [box.job(job)["ended_ms"] for job in (high, low, last)]
    check_equal(ended, sorted(ended), "order of ends")


@test
def time_limit_ends_a_job(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(endless(box, workers=1, time_limit_s=1))
    check_in("limit", box.wait_state(job, "failed")["error"], "error")


# ---- tasks fail ----

@test
def failing_task_is_tried_again(box):
    box.cluster(fake=True)
    job = box.submit(fake_job(box, "fail=train:2"))
    box.wait_state(job, "done")
    check_equal(max(t["failures"] for t in box.status(job)["tasks"]), 2, "failures")


@test
def failing_task_fails_the_job_and_retry_mends_it(box):
    box.cluster(fake=True)
    job = box.submit(fake_job(box, "fail=train:1", retries=0))
    check_in("told to fail", box.wait_state(job, "failed")["error"], "error")
    box.wait_workers("idle", "w1", "w2")
    box.ctl("retry", job)
    # Each of the two rounds has a train task of its own that fails once.
    box.wait_state(job, "failed")
    box.ctl("retry", job)
    box.wait_state(job, "done")


@test
def final_error_is_not_tried_again(box):
    box.cluster(fake=True)
    job = box.submit(fake_job(box, "final=truncate"))
    check_in("told to fail for good", box.wait_state(job, "failed")["error"], "error")
    check_equal({t["attempt"] for t in box.status(job)["tasks"] if t["state"] == "failed"}, {1},
                "attempts")


@test
def bad_model_fails_with_a_sentence(box):
    box.cluster(workers=1)
    weights = box.model() + "/unet/diffusion_pytorch_model.safetensors"
    with open(weights, "r+b") as file:
        file.truncate(1000)
    job = box.submit(box.self_npo(workers=1))
    text = box.wait_state(job, "failed")["error"]
    check_in("safetensors", text, "error")
    attempts = {t["attempt"] for t in box.status(job)["tasks"] if t["state"] == "failed"}
    check_equal(attempts, {1}, "attempts of a task that can never succeed")
    box.ctl("retry", job)
    box.wait_state(job, "failed")


@test
def dying_executor_costs_an_attempt_not_the_worker(box):
    workers = box.cluster(fake=True)
    job = box.submit(fake_job(box, "die=truncate:1"))
    box.wait_state(job, "done")
    check(all(w.is_running() for w in workers), "a worker ended with its executor")


# ---- workers and coordinators vanish ----

@test
def frozen_worker_is_replaced(box):
    box.npod(lease_ms=1000)
    frozen = box.worker("w1", fake=True)
    undisturbed = box.submit(fake_job(box, "step-ms=2", steps=40, workers=1))
    box.wait_state(undisturbed, "done")
    job = box.submit(fake_job(box, "step-ms=2", steps=40, workers=1))
    box.wait_running(job)
    frozen.send_signal(signal.SIGSTOP, group=True)
    box.worker("w2", fake=True)
    box.wait_state(job, "done")
    check_equal(box.outputs(job), box.outputs(undisturbed), "outputs")
    frozen.send_signal(signal.SIGCONT, group=True)
    box.wait_workers("idle", "w1", "w2")


@test
def gang_waits_for_a_lost_rank(box):
    box.npod(lease_ms=1000)
    box.worker("w1", fake=True)
    lost = box.worker("w2", fake=True)
    job = box.submit(fake_job(box, "step-ms=5", steps=100))
    box.wait_running(job, "train")
    lost.kill()
    box.wait("the job to miss a worker", lambda: "worker" in (box.job(job)["reason"] or ""))
    box.worker("w3", fake=True)
    box.wait_state(job, "done")


@test
def worker_that_leaves_gives_its_task_back(box):
    box.cluster(workers=1, fake=True)
    leaving = box.processes[-1]
    job = box.submit(fake_job(box, "step-ms=5", steps=100, workers=1))
    box.wait_running(job)
    check_equal(leaving.stop(), 0, "exit code of a worker that leaves")
    box.worker("w2", fake=True)
    box.wait_state(job, "done")
    check_equal(max(t["failures"] for t in box.status(job)["tasks"]), 0, "failures")


@test
def npod_restarts_in_mid_job(box):
    box.cluster(fake=True)
    npod = box.processes[0]
    job = box.submit(fake_job(box, "step-ms=2", steps=100))
    box.wait_running(job)
    check_equal(npod.stop(), 0, "exit code of npod on SIGTERM")
    npod = box.npod()
    box.wait_running(job)
    npod.kill()
    box.npod()
    box.wait_state(job, "done")


@test
def executor_goes_on_while_npod_is_away(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, "step-ms=20", steps=60, round_steps=60, workers=1))
    box.wait_running(job, "generate")
    attempt = {t["id"]: t["attempt"] for t in box.status(job)["tasks"]}
    box.processes[0].kill()
    executor, = box.executors_of(box.processes[1])
    box.npod()
    box.wait_state(job, "done")
    check_equal(box.executors_of(box.processes[1]), [executor], "executor")
    check_equal({t["id"]: t["attempt"] for t in box.status(job)["tasks"] if t["kind"] == "generate"},
                {t: 1 for t in attempt if t == min(attempt)}, "attempts of generate")


@test
def supervisor_that_dies_takes_its_executor_along(box):
    box.cluster(workers=1, fake=True)
    worker = box.processes[1]
    job = box.submit(endless(box, workers=1))
    box.wait_running(job)
    executors = box.executors_of(worker)
    check(executors, "the worker has no executor")
    worker.kill()
    box.wait("the executor to end", lambda: not set(executors) & set(box.find_processes()))


@test
def second_worker_of_a_name_takes_over(box):
    box.cluster(workers=1, fake=True)
    first = box.processes[1]
    job = box.submit(fake_job(box, "step-ms=5", steps=100, workers=1))
    box.wait_running(job)
    first.send_signal(signal.SIGSTOP, group=True)
    folder = os.path.join(box.dir, "other")
    os.makedirs(folder)
    box.start("w1-again", box.programs.fake, "--connect", box.address, "--state", folder, "--name", "w1",
              "--threads", 1)
    box.wait_state(job, "done")


# ---- nothing to run on ----

@test
def job_without_workers_says_why_it_waits(box):
    box.npod()
    job = box.submit(fake_job(box))
    check_in("worker", box.job(job)["reason"], "reason")
    check_equal(box.job(job)["state"], "pending", "state")
    box.worker("w1", fake=True)
    box.wait_workers("idle", "w1")
    check_in("2", box.job(job)["reason"], "reason")
    box.worker("w2", fake=True)
    box.wait_state(job, "done")


@test
def constraint_nobody_meets_is_the_reason(box):
    box.cluster(workers=1, fake=True)
    box.wait_workers("idle", "w1")
    job = box.submit(fake_job(box, workers=1, constraints={"device": "cuda"}))
    check_in("constraints", box.job(job)["reason"], "reason")


@test
def worker_without_its_instruction_set_says_so(box):
    box.npod()
    worker = box.worker("w1", "--isa", "altivec")
    check(worker.wait() != 0, "a worker with an unknown instruction set runs")
    check_in("altivec", worker.log, "log")


# ---- disk, ports, databases ----

def big_file(box, name, mib, seed=1):
    return box.write(name, random.Random(seed).randbytes(mib << 20))


@test
def upload_goes_on_where_it_was_interrupted(box):
    path = big_file(box, "big", 48)
    other = harness.Box(box.programs, "other")
    try:
        other.npod()
        artifact = other.ctl("import", path, "--json").json
    finally:
        other.close()
        other.remove()
    mark = os.path.join(box.dir, "killed")
    box.npod(env={"NPO_CRASH_AT": "artifact.write:8", "NPO_CRASH_ONCE": mark})
    sending = box.ctl_start("import", path)
    check_equal(box.processes[0].wait(), -signal.SIGKILL, "exit code of npod")
    sending.kill()
    box.npod()
    with Wire(box.state + "/npod.sock") as wire:
        reply = wire.ask("upload_open", {"hash": artifact["artifact"], "size": artifact["bytes"]})
    check_equal(reply.get("have"), False, f"'have' of {reply}")
    check_equal(box.ctl("import", path, "--json").json["artifact"], artifact["artifact"], "hash")
    with Wire(box.state + "/npod.sock") as wire:
        reply = wire.ask("upload_open", {"hash": artifact["artifact"], "size": artifact["bytes"]})
    check_equal(reply.get("have"), True, f"'have' of {reply}")


@test
def upload_of_a_client_that_died_goes_on(box):
    path = big_file(box, "big", 96)
    box.npod()
    sending = box.ctl_start("import", path)
    part = []

    def arriving():
        for folder, _, names in os.walk(box.state):
            part[:] = [os.path.join(folder, n) for n in names if n.endswith(".part")] or part
        return part and os.path.getsize(part[0]) >= 16 << 20
    box.wait("a part of the file to arrive", arriving)
    sending.kill()
    check(os.path.exists(part[0]), "the whole file arrived before the sender could be killed")
    digest = os.path.basename(part[0])[:32]
    box.processes[0].stop()
    held = os.path.getsize(part[0]) # what was on its way has been written or dropped
    box.npod()
    with Wire(box.state + "/npod.sock") as wire:
        reply = wire.ask("upload_open", {"hash": digest, "size": 96 << 20})
    check(0 < reply["offset"] <= held, f"expected to go on within {held} bytes, found {reply}")
    check_equal(box.ctl("import", path, "--json").json["artifact"], digest, "hash")


def mount_small(box, megabytes):
    os.makedirs(box.state, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "npo-test", box.state],
                          capture_output=True)
    if done.returncode != 0:
        raise Skip("cannot mount a small file system: " + done.stderr.decode().strip())

    def unmount():
        for process in box.processes:
            process.send_signal(signal.SIGKILL, group=True)
            process.wait()
        subprocess.run(["umount", box.state], check=True)
    box.cleanups.append(unmount)


@test
def full_disk_refuses_and_goes_on(box):
    mount_small(box, 24)
    box.npod()
    result = box.ctl("import", big_file(box, "big", 40), check_code=None)
    check_equal(result.code, 5, f"exit code of {result}")
    check_in("space", result.err, "error")
    check(box.processes[0].is_running(), "npod has ended: " + box.processes[0].log)
    # What was cut short is cleared away or goes on; a small thing fits again.
    box.worker("w1", fake=True)
    job = box.submit(fake_job(box, workers=1))
    box.wait_state(job, "done")


@test
def full_disk_in_mid_job_waits_until_there_is_room(box):
    mount_small(box, 32)
    box.cluster(workers=1, fake=True)
    npod = box.processes[0]
    spec = fake_job(box, "bytes=200000", steps=40, round_steps=2, workers=1, retries=100)
    undisturbed = box.submit(spec)
    box.wait_state(undisturbed, "done")
    job = box.submit({**spec, "seed": 8})
    box.wait_running(job)
    ballast = box.state + "/ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            check_equal(error.errno, errno.ENOSPC, "reason that the disk takes no more")
    box.wait("npod to notice", lambda: "full" in npod.log or "space" in npod.log)
    check(npod.is_running(), "npod has ended: " + npod.log)
    check_equal(box.job(undisturbed)["state"], "done", "state of the other job")
    os.unlink(ballast)
    box.wait_state(job, "done", timeout=2 * WAIT_S)
    check(npod.is_running(), "npod has ended: " + npod.log)
    again = box.submit({**spec, "seed": 8})
    box.wait_state(again, "done")
    check_equal(box.outputs(again), box.outputs(job), "outputs")


@test
def port_in_use_is_named(box):
    port = harness.free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        npod = box.npod("--listen", f"tcp://127.0.0.1:{port}", ready=False)
        check(npod.wait() != 0, "npod runs without its port")
        check_in(str(port), npod.log, "log")


@test
def foreign_address_needs_insecure(box):
    npod = box.npod("--listen", f"tcp://0.0.0.0:{harness.free_port()}", ready=False)
    check(npod.wait() != 0, "npod listens to the world")
    check_in("--insecure", npod.log, "log")


@test
def newer_database_is_refused_untouched(box):
    npod = box.npod()
    npod.stop()
    path = database(box)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9999")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = harness.tree_hash(path)
    npod = box.npod(ready=False)
    check(npod.wait() != 0, "npod opens a newer database")
    check_in("9999", npod.log, "log")
    check_equal(harness.tree_hash(path), before, "database")


@test
def broken_database_is_refused(box):
    npod = box.npod()
    npod.stop()
    path = database(box)
    with open(path, "r+b") as file:
        file.write(b"this is not a database" * 10)
    npod = box.npod(ready=False)
    check(npod.wait() != 0, "npod opens a broken database")
    check_in(os.path.basename(path), npod.log, "log")


@test
def second_npod_is_refused(box):
    first = box.npod()
    second = box.npod(ready=False, name="second")
    check(second.wait() != 0, "two npod work on one state folder")
    check_in(box.state, second.log, "log")
    check(first.is_running(), "the first npod has ended")
    box.ctl("status")


@test
def restored_backup_is_fenced(box):
    """The state folder as it was before: workers that have seen more must not be told old things."""
    box.cluster(workers=1, fake=True)
    npod, worker = box.processes
    done = box.submit(fake_job(box, workers=1))
    box.wait_state(done, "done")
    npod.stop()
    shutil.copytree(box.state, box.dir + "/backup")
    npod = box.npod()
    job = box.submit(endless(box, workers=1))
    box.wait_running(job)
    npod.kill()
    shutil.rmtree(box.state)
    shutil.move(box.dir + "/backup", box.state)
    box.npod("--raise-epoch")
    after = box.submit(fake_job(box, workers=1))
    box.wait_state(after, "done")
    check(worker.is_running(), "the worker has ended")


@test
def stale_npod_is_refused_after_a_restart(box):
    """A worker that has obeyed a newer npod remembers it on disk."""
    npod = box.npod()
    npod.stop()
    shutil.copytree(box.state, box.dir + "/backup")
    npod = box.npod("--raise-epoch")
    worker = box.worker("w1", fake=True)
    box.wait_state(box.submit(fake_job(box, workers=1)), "done")
    worker.stop()
    npod.stop()
    shutil.rmtree(box.state)
    shutil.move(box.dir + "/backup", box.state)
    box.npod()
    again = box.worker("w1", fake=True)
    check_equal(again.wait(), 1, "exit code of the worker")
    check_in("it is out of date", again.log, "log")


# ---- hostile peers ----

@test
def hostile_bytes_disturb_nobody(box):
    draw = random.Random(3)
    box.cluster(fake=True)
    npod = box.processes[0]
    job = box.submit(fake_job(box, "step-ms=2", steps=100))
    box.wait_running(job)
    path = box.state + "/npod.sock"
    for name in ("npod.sock", "npod.bulk.sock", "npod.hints.sock"):
        for greeting, data in hostile_streams():
            with Wire(f"{box.state}/{name}", greeting=None) as wire:
                try:
                    wire.socket.sendall((greeting or b"") + data)
                except OSError:
                    pass  # closed on us: as good as ignored
    for message in hostile_frames(draw):
        with Wire(path) as wire:
            wire.send(message)
        with Wire(box.state + "/npod.bulk.sock") as wire:
            wire.send(message)
    for _ in range(200):
        with Wire(path) as wire:
            wire.send(bytes(draw.getrandbits(8) for _ in range(draw.randrange(100))))
    with Wire(path) as wire:
        check_in("epoch", wire.ask("info", {}), "answer")
    box.wait_state(job, "done")
    check(npod.is_running(), "npod has ended")


@test
def silent_connections_cost_nothing(box):
    box.cluster(workers=1, fake=True)
    silent = [Wire(box.state + "/npod.sock") for _ in range(200)]
    half = Wire(box.state + "/npod.sock")
    half.socket.sendall(b"\x01" + struct.pack(">Q", 100) + b"x" * 10)
    job = box.submit(fake_job(box, workers=1))
    box.wait_state(job, "done")
    for wire in [*silent, half]:
        wire.close()


@test
def request_repeated_is_answered_the_same(box):
    box.npod()
    with Wire(box.state + "/npod.sock") as wire:
        body = {"name": "x", "device": "cpu", "class": "none", "threads": 1, "memory_bytes": 1,
                "labels": {}, "build": "other", "protocol": [1, 1]}
        first = wire.ask("hello", body)
        wire.request -= 1
        check_equal(wire.ask("hello", body), first, "answer to a resend")
        start = time.monotonic()
        answer = wire.ask("done", {"worker": first["worker"], "task": 1, "attempt": 1, "rank": 0,
                                   "outputs": [], "result": {}})
        check_equal(answer["error"]["code"], "FENCED", f"code of {answer}")
        check(time.monotonic() - start < WAIT_S, "a refusal took long")


harness.main()
