#!/usr/bin/env python3
"""npoctl as people and scripts meet it: exit codes, sentences, JSON, `up` and `down`, Ctrl-C."""
import json
import os
import signal
import time

import harness
from harness import check, check_equal, check_in, test

COMMANDS = ["up", "down", "submit", "status", "watch", "logs", "cancel", "hold", "release", "retry", "rm",
            "workers", "import", "export", "sample", "evaluate", "get"]
JOB_KEYS = {"id", "name", "recipe", "state", "reason", "priority", "workers", "submitted_ms", "started_ms",
            "ended_ms", "step", "steps", "round", "rounds", "phase", "loss", "samples_per_s", "eta_s",
            "tasks", "error", "spec"}


def fake_job(box, words="", **more):
    return box.self_npo(name=f"fake {words}", **{"steps": 4, "workers": 1, **more})


def endless(box, **more):
    return fake_job(box, "step-ms=50", steps=100000, round_steps=5000, **more)


# ---- exit codes ----

@test
def submit_without_wait_is_0_when_accepted(box):
    box.npod()
    box.ctl("submit", box.job_file(fake_job(box)))


@test
def done_is_0(box):
    box.cluster(workers=1, fake=True)
    box.ctl("submit", box.job_file(fake_job(box)), "--wait")
    box.ctl("watch", 1)


@test
def failed_is_1(box):
    box.cluster(workers=1, fake=True)
    result = box.ctl("submit", box.job_file(fake_job(box, "final=train")), "--wait", check_code=1)
    check_in("told to fail for good", result.out + result.err, "output")
    box.ctl("watch", 1, check_code=1)


@test
def wrong_usage_is_2(box):
    for args in ([], ["nonsense"], ["submit"], ["submit", "--nonsense", "x"], ["cancel", "one"],
                 ["status", "-1"], ["status", "1", "2", "3"], ["up", "--workers", "many"]):
        result = box.ctl(*args, check_code=2, connect=False)
        check(result.err.strip(), f"{result}: no sentence on stderr")
    check_in("'status'", box.ctl("statsu", check_code=2, connect=False).err, "closest command")
    check_in("--wait", box.ctl("submit", "--wiat", "x", check_code=2, connect=False).err,
             "closest option")


@test
def cancelled_is_3(box):
    box.cluster(workers=1, fake=True)
    waiting = box.ctl_start("submit", box.job_file(endless(box)), "--wait")
    box.wait("the job", lambda: box.ctl("status", "--json").json["jobs"])
    box.wait_running(1)
    box.ctl("cancel", 1)
    check_equal(waiting.wait(), 3, "exit code of submit --wait")
    box.ctl("watch", 1, check_code=3)


@test
def unreachable_is_4_within_seconds(box):
    for where in (["--state", box.state], ["--connect", f"tcp://127.0.0.1:{harness.free_port()}"]):
        start = time.monotonic()
        result = box.ctl("status", *where, check_code=4, connect=False)
        seconds = time.monotonic() - start
        check(4 < seconds < 8, f"took {seconds:.1f} s")
        check(result.err.strip(), "no sentence on stderr")


@test
def frozen_npod_is_unreachable_too(box):
    npod = box.npod()
    npod.send_signal(signal.SIGSTOP)
    box.ctl("status", check_code=4)


@test
def refused_is_5(box):
    box.cluster(workers=1, fake=True)
    box.wait_workers("idle", "w1")
    job = box.submit(endless(box))
    box.wait_running(job)
    box.ctl("rm", job, check_code=5)
    box.ctl("release", job, check_code=5)
    box.ctl("status", 77, check_code=5)
    box.ctl("cancel", 77, check_code=5)
    box.ctl("get", job, "nothing", "--out", box.dir + "/out", check_code=5)
    unknown = fake_job(box)
    unknown["model"] = {"artifact": "0" * 32}
    box.ctl("submit", box.job_file(unknown), check_code=5)
    box.ctl("cancel", job)
    box.wait_state(job, "cancelled")
    box.ctl("hold", job, check_code=5)
    box.ctl("rm", job)
    box.ctl("status", job, check_code=5)


@test
def interrupted_is_130_and_the_job_goes_on(box):
    box.cluster(workers=1, fake=True)
    waiting = box.ctl_start("submit", box.job_file(fake_job(box, "step-ms=20", steps=30)), "--wait")
    box.wait("the job", lambda: box.ctl("status", "--json").json["jobs"])
    box.wait_running(1)
    check_equal(waiting.stop(signal.SIGINT), 130, "exit code of submit --wait")
    watching = box.ctl_start("watch", 1)
    box.wait("progress", lambda: watching.log)
    check_equal(watching.stop(signal.SIGINT), 130, "exit code of watch")
    box.wait_state(1, "done")


@test
def interrupt_while_npod_is_away_is_130(box):
    waiting = box.ctl_start("status")
    # The handler is in place when the session is open, which the wait for npod shows.
    box.wait("npoctl to start", lambda: os.path.exists(f"/proc/{waiting.pid}/task")
             and len(os.listdir(f"/proc/{waiting.pid}/task")) > 1)
    check_equal(waiting.stop(signal.SIGINT), 130, "exit code")


# ---- job files ----

@test
def wrong_job_files_get_one_sentence(box):
    box.npod()
    good = fake_job(box)
    cases = [
        ("{", "job-"),
        ("[]", "object"),
        ({**good, "rounds_step": 3}, "'round_steps'"),
        ({**good, "recipe": "self-nop"}, "self-npo"),
        ({**good, "workers": "two"}, "workers"),
        ({**good, "workers": 0}, "workers"),
        ({**good, "train": {**good["train"], "lr": "fast"}}, "train.lr"),
        ({**good, "train": {**good["train"], "learning_rate": 1}}, "train"),
        ({**good, "train": {**good["train"], "batch": 3}, "workers": 2}, "batch"),
        ({**good, "seed": 1.5}, "seed"),
        ({**good, "model": box.dir + "/nowhere"}, "nowhere"),
        ({**good, "after": [99]}, "99"),
        ({k: v for k, v in good.items() if k != "model"}, "'model'"),
        ({k: v for k, v in good.items() if k != "recipe"}, "recipe"),
        ('{"recipe": "self-npo", "recipe": "sample"}', "recipe"),
    ]
    for content, part in cases:
        result = box.ctl("submit", box.job_file(content), check_code=None)
        check(result.code in (2, 5), f"expected exit code 2, or 5 from npod: {result}")
        check_in(part, result.err, f"error for {content}")
        check(result.err.startswith("npoctl: "), f"expected a sentence: {result}")
    check_equal(box.ctl("status", "--json").json["jobs"], [], "jobs after refused files")
    box.ctl("submit", box.dir + "/nowhere.json", check_code=2)


@test
def dry_run_changes_nothing(box):
    box.npod()
    result = box.ctl("submit", box.job_file(fake_job(box, workers=2)), "--dry-run")
    check_in("generate", result.out, "plan")
    check_equal(box.ctl("status", "--json").json["jobs"], [], "jobs after a dry run")
    wrong = fake_job(box)
    wrong["train"]["lr"] = "fast"
    box.ctl("submit", box.job_file(wrong), "--dry-run", check_code=2)


@test
def set_changes_the_job(box):
    box.npod()
    job = box.submit(fake_job(box), "--set", "train.lr=0.5", "--set", "name=another")
    spec = box.job(job)["spec"]
    check_equal(spec["train"]["lr"], 0.5, "train.lr")
    check_equal(box.job(job)["name"], "another", "name")
    box.ctl("submit", box.job_file(fake_job(box)), "--set", "train.lr", check_code=2)
    box.ctl("submit", box.job_file(fake_job(box)), "--set", "train.nothing=1", check_code=2)


@test
def same_key_is_the_same_job(box):
    box.npod()
    first = box.submit(fake_job(box), "--key", "mine")
    check_equal(box.submit(fake_job(box), "--key", "mine"), first, "job")
    check(box.submit(fake_job(box)) != first, "another key gave the same job")


@test
def paths_are_imported_once(box):
    box.npod()
    job = box.submit(fake_job(box))
    model = box.job(job)["spec"]["model"]
    check_equal(list(model), ["artifact"], "keys of spec.model")
    check_equal(box.ctl("import", box.model(), "--json").json["artifact"], model["artifact"], "hash")


# ---- what it prints ----

@test
def json_has_the_documented_shape(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box))
    box.wait_state(job, "done")
    jobs = box.ctl("status", "--json").json["jobs"]
    check_equal(len(jobs), 1, "jobs")
    check(JOB_KEYS - {"spec"} <= set(jobs[0]), f"missing in status: {JOB_KEYS - set(jobs[0])}")
    whole = box.status(job)
    check(JOB_KEYS <= set(whole["job"]), f"missing in status JOB: {JOB_KEYS - set(whole['job'])}")
    check({"id", "kind", "round", "shard", "state", "attempt", "failures", "worker", "error"}
          <= set(whole["tasks"][0]), f"keys of a task: {set(whole['tasks'][0])}")
    check({"name", "task", "round", "hash", "size", "kind"} <= set(whole["outputs"][0]),
          f"keys of an output: {set(whole['outputs'][0])}")
    check_equal(sorted(c["step"] for c in whole["checkpoints"]), [2, 4], "steps of the checkpoints")
    check({"id", "name", "device", "class", "threads", "state", "job", "task", "last_seen_ms"}
          <= set(box.workers()["w1"]), "keys of a worker")


@test
def plain_output_without_a_terminal(box):
    box.cluster(workers=1, fake=True)
    result = box.ctl("submit", box.job_file(fake_job(box, "step-ms=5")), "--wait")
    for text in (result.out, result.err, box.ctl("status").out, box.ctl("workers").out,
                 box.ctl("status", 1).out, box.ctl("logs", 1).out):
        check("\x1b" not in text and "\r" not in text, f"control characters in {text!r}")
    check_in("done", box.ctl("status").out, "status")
    check_in("w1", box.ctl("workers").out, "workers")


@test
def logs_show_and_follow(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, "step-ms=20", steps=20))
    following = box.ctl_start("logs", job, "-f")
    box.wait_state(job, "done")
    check_equal(following.wait(), 0, "exit code of logs -f")
    check_in("train round", following.log, "followed logs")
    check_in("train round", box.ctl("logs", job).out, "logs")


@test
def every_command_has_help_with_an_example(box):
    overview = box.ctl("help", connect=False).out
    for command in COMMANDS:
        check_in(command, overview, "help")
        text = box.ctl(command, "--help", connect=False).out
        check_in("npoctl " + command, text, f"help of {command}")
        check_in("Example", text, f"help of {command}")
    for program in (box.programs.npod, box.programs.npoworker):
        text = box.start("help", program, "--help")
        check_equal(text.wait(), 0, f"exit code of {program} --help")
        check_in("--state", text.log, f"help of {program}")


@test
def settings_flag_over_environment_over_file(box):
    file = box.write("settings.json", {"state": "/from-file"})

    def shown(*args, env=None):
        return json.loads(box.ctl("status", "--print-config", *args, connect=False, env=env).out)["state"]
    check_equal(shown("--config", file), "/from-file", "state")
    check_equal(shown("--config", file, env={"NPO_STATE": "/from-environment"}), "/from-environment",
                "state")
    check_equal(shown("--config", file, "--state", "/from-flag", env={"NPO_STATE": "/x"}), "/from-flag",
                "state")


# ---- results ----

@test
def get_and_export_write_files(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, preview_rounds=1))
    box.wait_state(job, "done")
    out = box.dir + "/out"
    box.ctl("get", job, "--out", out)
    names = {name for _, _, files in os.walk(out) for name in files}
    check("preview-2.png" in names or "preview-4.png" in names, f"files of get: {names}")
    box.ctl("export", job, box.dir + "/negative")
    check(os.path.exists(box.dir + "/negative/unet/config.json"), "no unet/config.json")
    box.ctl("export", job, box.dir + "/negative")
    with open(box.dir + "/negative/unet/config.json", "w") as file:
        file.write("mine")
    box.ctl("export", job, box.dir + "/negative", check_code=2)
    with open(box.dir + "/negative/unet/config.json") as file:
        check_equal(file.read(), "mine", "a file that was there")
    box.ctl("get", job, "checkpoint", "--out", box.dir + "/one")


@test
def rm_forgets_a_job(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box))
    box.wait_state(job, "done")
    box.ctl("rm", job)
    check_equal(box.ctl("status", "--json").json["jobs"], [], "jobs")


# ---- up and down ----

def up_environment(box):
    """`npoctl up` finds npod and npoworker beside itself, or by PATH."""
    folders = {os.path.dirname(p) for p in (box.programs.npod, box.programs.npoworker)}
    return {"PATH": ":".join([*folders, os.environ["PATH"]])}


@test
def up_in_the_foreground_stops_with_ctrl_c(box):
    up = box.ctl_start("up", "--workers", 2, env=up_environment(box))
    box.wait_ready(up)
    box.wait("two workers", lambda: [w["state"] for w in box.workers().values()] == ["idle"] * 2)
    second = box.ctl("up", "--workers", 1, check_code=None, env=up_environment(box))
    check(second.code != 0 and box.state in second.err, f"expected a refusal: {second}")
    code = up.stop(signal.SIGINT)
    check(code in (0, 130), f"exit code of up: {code}")
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
    box.ctl("down", check_code=None)


@test
def up_that_is_killed_leaves_nothing_running(box):
    up = box.ctl_start("up", "--workers", 1, env=up_environment(box))
    box.wait_ready(up)
    box.wait("a worker", box.workers)
    up.kill()
    box.wait("all to end", lambda: not box.find_processes())


@test
def up_starts_a_worker_again(box):
    up = box.ctl_start("up", "--workers", 1, env=up_environment(box))
    box.wait_ready(up)
    box.wait("a worker", lambda: [w["state"] for w in box.workers().values()] == ["idle"])
    worker, = [pid for pid, line in box.find_processes().items()
               if "npoworker" in line and "--executor" not in line]
    os.kill(worker, signal.SIGKILL)
    job = box.submit(box.self_npo(workers=1))
    box.wait_state(job, "done")


harness.main()
