#!/usr/bin/env python3
"""kill -9 of npod, of a supervisor or of an executor at a named crash point (NPO_CRASH_AT=point:n), and
restarted: the job ends with the same bytes as one that nobody disturbed.

20 choices drawn from NPO_TEST_SEED (default 1); every point at its 1st, 2nd and last pass that is
certain with NPO_TEST_LONG=1. A point that is not passed fails its test."""
import functools
import os
import random
import signal
import threading

import harness
from harness import POLL_S, check, check_equal

CHOICES = 20
# Passes of each point that the job below is certain to make in some process; 1 where not listed.
PASSES = {
    "store.commit.before": 30, "store.commit.after": 30, "reply.before": 60,
    "artifact.write": 10, "artifact.sync": 10, "artifact.publish": 10,
    "lease.taken": 6, "upload.chunk": 6, "upload.done": 6, "download.chunk": 6,
    "report.before": 6, "report.after": 6,
    "task.start": 6, "task.output": 6, "train.step": 6, "train.allreduce": 3, "checkpoint.write": 3,
}


class Cluster:
    """npod and two workers that are started again whenever one was killed, by a thread of its own: a
    command that waits for npod must not keep it from coming back."""

    def __init__(self, box, env):
        self.box, self.deaths, self.error = box, 0, None
        self.starters = {
            "npod": lambda: box.npod(env=env, ready=False),
            "w1": lambda: box.worker("w1", env=env),
            "w2": lambda: box.worker("w2", env=env),
        }
        self.processes = {name: start() for name, start in self.starters.items()}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        box.cleanups.append(self.stop)

    def watch(self):
        while not self.stopping.wait(POLL_S):
            for name, process in self.processes.items():
                if process.is_running():
                    continue
                if process.popen.returncode != -signal.SIGKILL:
                    self.error = f"{name} ended by itself: {process.popen.returncode}"
                    return
                self.deaths += 1
                self.processes[name] = self.starters[name]()

    def stop(self):
        self.stopping.set()
        self.thread.join()


# A job of each kind of training state: all weights in f32, a LoRA with its moments in 8 bits.
TRAIN = {
    "full": {},
    "lora": {"lora": {"rank": 2, "targets": "all"}, "optimizer": "adamw8bit"},
}


def run_job(box, env, kind="full"):
    """Runs the job to its end; what it made: hashes by output, and one of the exported model's files."""
    cluster = Cluster(box, env)
    spec = box.self_npo(steps=6, round_steps=2, preview_rounds=1, sample={"count": 4, "steps": 4},
                        train=TRAIN[kind])
    submit = box.ctl_start("submit", box.job_file(spec), "--wait", "--id-only")
    code = submit.wait(2 * harness.WAIT_S)
    check(cluster.error is None, cluster.error)
    check_equal(code, 0, f"exit code of submit --wait, which said: {submit.log}")
    made = box.outputs(1)
    states = {state: count for state, count in box.job(1)["tasks"].items() if count}
    check_equal(list(states), ["done"], "states of the tasks")
    box.ctl("export", 1, box.dir + "/negative")
    made["exported"] = harness.tree_hash(box.dir + "/negative")
    return made


reference_lock = threading.Lock()
reference = {}


def undisturbed(box, kind="full"):
    """The outputs of a run of its own that nobody disturbs, made once a kind."""
    with reference_lock:
        if kind not in reference:
            quiet = harness.Box(box.programs, f"undisturbed-{kind}")
            try:
                reference[kind] = run_job(quiet, {}, kind)
            finally:
                left = quiet.close()
                quiet.remove()
            check(not left, f"left running: {left}")
    return reference[kind]


def killed_at(point, nth, box, kind="full"):
    mark = os.path.join(box.dir, "killed")
    expected = undisturbed(box, kind)
    made = run_job(box, {"NPO_CRASH_AT": f"{point}:{nth}", "NPO_CRASH_ONCE": mark}, kind)
    check(os.path.exists(mark), f"{point} was not passed {nth} times: nothing was killed")
    check_equal(sorted(map(str, made)), sorted(map(str, expected)), "outputs")
    for name, digest in expected.items():
        check_equal(made[name], digest, f"hash of {name}")


def choices(points):
    if harness.LONG:
        return [(p, n) for p in points for n in sorted({1, 2, PASSES.get(p, 1)} & set(
            range(1, PASSES.get(p, 1) + 1)))]
    draw = random.Random(int(os.environ.get("NPO_TEST_SEED", "1")))
    # Every point before any a second time.
    order = draw.sample(points, len(points)) + [draw.choice(points) for _ in range(CHOICES)]
    return [(p, draw.randint(1, PASSES.get(p, 1))) for p in order[:CHOICES]]


@harness.test
def undisturbed_twice_is_equal(box):
    check_equal(run_job(box, {}), undisturbed(box), "outputs")


@harness.test
def lora_killed_in_a_step(box):
    killed_at("train.step", 4, box, "lora")


def main():
    args = harness.parse_arguments()
    points = harness.crash_points(args.npod) + harness.crash_points(args.npoworker)
    for point, nth in choices(points):
        function = functools.partial(killed_at, point, nth)
        function.__name__ = f"killed_at_{point}_{nth}"
        harness.tests.append(function)
    harness.main(args)


main()
