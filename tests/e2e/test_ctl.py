#!/usr/bin/env python3
"""npoctl as people and scripts meet it: exit codes, sentences, JSON, terminals, results."""
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import time

import harness
import tiny_model
from harness import check, check_equal, check_in, test
from terminal import Terminal

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
PAGE = os.path.join(ROOT, "docs/npoctl.md")
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
def failed_is_1_with_one_sentence(box):
    box.cluster(workers=1, fake=True)
    result = box.ctl("submit", box.job_file(fake_job(box, "final=train")), "--wait", check_code=1)
    check_in("npoctl: job 1 failed: ", result.err, "standard error")
    check_in("told to fail for good", result.err, "standard error")
    check("failed" not in result.out, f"told twice: {result}")
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
    check_equal(box.ctl("status", "--json").json["jobs"], [], "jobs")


@test
def interrupted_is_130_and_the_job_goes_on(box):
    box.cluster(workers=1, fake=True)
    job = box.submit(fake_job(box, "step-ms=20", steps=60, round_steps=30))
    box.wait_running(job)
    for args in (("watch", job), ("logs", job, "-f")):
        looking = box.ctl_start(*args)
        box.wait("output", lambda: looking.log)
        check_equal(looking.stop(signal.SIGINT), 130, f"exit code of {args}")
    box.wait_state(job, "done")


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
        ({**good, "model": box.data()}, "unet/config.json"),
        ({**good, "data": box.model()}, "captions.jsonl"),
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
def dry_run_needs_no_npod(box):
    start = time.monotonic()
    box.ctl("submit", box.job_file(fake_job(box)), "--dry-run", connect=False)
    box.ctl("submit", box.job_file(fake_job(box)), "--dry-run", "--from", "3@2", connect=False)
    wrong = fake_job(box, train={"lr": "fast"})
    box.ctl("submit", box.job_file(wrong), "--dry-run", connect=False, check_code=2)
    check(time.monotonic() - start < 4, "a dry run waited for npod")


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


@test
def job_file_from_standard_input(box):
    box.npod()
    with open(box.job_file(fake_job(box))) as file:
        done = subprocess.run(box.ctl_args("submit", "-", "--id-only"), stdin=file, capture_output=True,
                              env=box.environment())
    check_equal((done.returncode, done.stdout), (0, b"1\n"), "outcome")


# ---- what it prints ----

@test
def json_is_as_documented(box):
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
    jobs = answers["status --json"]["jobs"]
    check(JOB_KEYS - {"spec"} <= set(jobs[0]), f"missing in status: {JOB_KEYS - set(jobs[0])}")
    whole = answers["status JOB --json"]
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
    job = box.submit(fake_job(box, "step-ms=20", steps=20, round_steps=10))
    following = box.ctl_start("logs", job, "-f")
    box.wait_state(job, "done")
    check_equal(following.wait(), 0, "exit code of logs -f")
    check_in("train round", following.log, "followed logs")
    check_in("train round", box.ctl("logs", job).out, "logs")
    check_in("truncate round", box.ctl("logs", job, "--task", 2).out, "logs of a task")
    check_in("job 1 has no task 99", box.ctl("logs", job, "--task", 99, check_code=5).err, "sentence")


@test
def every_command_has_help_with_an_example_that_works(box):
    overview = box.ctl("help", connect=False).out
    for command in COMMANDS:
        check_in(command, overview, "help")
        text = box.ctl(command, "--help", connect=False).out
        program, *args = shlex.split(text.rpartition("Example:")[2])
        check_equal((program, args[0]), ("npoctl", command), "example")
        # Reads the options, and leaves.
        box.ctl(*args, "--print-config", connect=False)
        for path in args:
            check(not path.startswith(("models/", "/usr/")) or os.path.exists(os.path.join(ROOT, path)),
                  f"example of {command}: there is no {path}")
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


@test
def a_reader_that_leaves_gets_no_error(box):
    box.npod()
    box.submit(fake_job(box))
    for args in (["status"], ["status", 1], ["workers"], ["get", 1], ["help"], ["submit", "--help-job"]):
        command = [box.programs.npoctl, *map(str, args)] if args[0] in ("help", "submit") else \
            box.ctl_args(*args)
        left, pipe = os.pipe()
        os.close(left)
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, env=box.environment())
        os.close(pipe)
        check_equal((done.returncode, done.stderr), (-signal.SIGPIPE, b""), f"outcome of {args}")


@test
def a_full_disk_is_1(box):
    box.npod()
    with open("/dev/full", "w") as full:
        done = subprocess.run(box.ctl_args("status", "--json"), stdout=full, stderr=subprocess.PIPE,
                              env=box.environment())
    check_equal(done.returncode, 1, "exit code")
    check_in("npoctl: cannot", done.stderr.decode(), "sentence")


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
def sample_fetches_images(box):
    box.npod()
    box.worker("w1")
    out = box.dir + "/images"
    box.ctl("sample", "--model", box.model(), "-p", "a photo of a bag", "-c", 2, "--steps", 2, "--grid",
            "--out", out)
    names = sorted(os.listdir(out))
    check_equal(names, ["grid.png", "image-00000.png", "image-00001.png"], "files")
    other = box.ctl("sample", "--model", box.model(), "-p", "a photo of a bag", "-c", 2, "--steps", 2, "-s", 5,
                    "--out", out, check_code=2)
    check_in(f"'{out}' exists already and is something else", other.err, "sentence")
    check_in("'npoctl get 2 --out DIR'", other.err, "what to do")
    box.ctl("sample", "-p", "x", check_code=2)
    box.ctl("sample", "--negative", 77, "-p", "x", check_code=5)


def png_texts(path):
    """{key: text} of a PNG's tEXt and iTXt chunks, and its (width, height)."""
    with open(path, "rb") as file:
        data = file.read()
    at, texts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        key, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            texts[key.decode()] = rest.decode("latin-1")
        elif kind == b"iTXt":
            texts[key.decode()] = rest[2:].split(b"\0", 2)[2].decode()
        at += 12 + size
    return texts, struct.unpack(">II", data[16:24])


@test
def sample_with_two_networks_and_a_vae(box):
    """Every sampler draws a file of prompts on a latent model; what is wrong is said before anything runs."""
    box.npod()
    box.worker("w1")
    model, negative = box.dir + "/latent", box.dir + "/latent-negative"
    tiny_model.make_latent(model, negative)
    prompts = box.write("p.jsonl", '{"prompt": "a bag", "seed": 5}\n'
                                   '{"prompt": "Größe", "negative_prompt": "grey"}\n')
    given = ["-m", model, "-n", negative, "--steps", 2, "--width", 24, "--height", 16]
    for args in (["ddim", "--rescale", "0.5"], ["dpmpp-2m", "--karras"], ["euler", "--spacing", "trailing"],
                 ["euler-ancestral"]):
        out = f"{box.dir}/{args[0]}"
        box.ctl("sample", *given, "--prompts", prompts, "--guidance-scale", 5, "--sampler", *args, "--out", out)
        check_equal(sorted(os.listdir(out)), ["image-00000.png", "image-00001.png"], "files")
        texts, size = png_texts(out + "/image-00001.png")
        check_equal(size, (24, 16), "size")
        settings = json.loads(texts["npo.settings"])
        check_equal((settings["prompt"], settings["negative_prompt"], settings["seed"], settings["sampler"]),
                    ("Größe", "grey", 1, args[0]), "settings")
        check_in("Größe\nNegative prompt: grey\nSteps: 2, Sampler: ", texts["parameters"], "parameters")
    broken = box.write("broken.txt", b"good\nbad \xff\n")
    for args, part in ((["--prompts", broken], "line 2: found byte 0xff at byte 5, expected UTF-8"),
                       (["-p", "x", "--prompts", prompts], "expected one of them"),
                       (["-p", "x", "--sampler", "heun"], "expected one of"),
                       (["-p", "x", "--karras"], "sample.karras"),
                       (["-p", "x", "--width", "30"], "width: found 30 pixels, expected a multiple of 4")):
        check_in(part, box.ctl("sample", *given, *args, check_code=2).err, f"error for {args}")


@test
def sample_with_the_network_of_a_job(box):
    box.npod()
    box.worker("w1")
    job = box.submit(box.self_npo(workers=1))
    box.wait_state(job, "done")
    for negative in (str(job), f"{job}@2"):
        out = f"{box.dir}/images-{negative}"
        box.ctl("sample", "-n", negative, "-p", "a photo of a bag", "-c", 1, "--steps", 2, "--grid",
                "--out", out)
        check(os.path.exists(out + "/grid.png"), "no grid.png")
    box.ctl("export", f"{job}@2", box.dir + "/at2")
    box.ctl("export", job, box.dir + "/last")
    check(harness.tree_hash(box.dir + "/at2") != harness.tree_hash(box.dir + "/last"),
          "step 2 and the last step gave the same network")


@test
def evaluate_measures_and_fetches_the_report(box):
    box.npod()
    box.worker("w1")
    model, data, out = box.dir + "/model28", box.dir + "/data28", box.dir + "/report"
    tiny_model.make(model, size=28)
    tiny_model.make_data(data, count=60, size=28, labels=10)
    prompts = box.write("prompts.txt", "".join(f"a photo of a {i}\n" for i in range(10)))
    classifier = box.submit({"recipe": "classifier", "data": data, "round_steps": 2,
                             "train": {"steps": 2, "batch": 8, "warmup_steps": 0}})
    job = box.submit({**box.self_npo(steps=2, workers=1), "model": model, "prompts": prompts})
    box.wait_state(classifier, "done")
    box.wait_state(job, "done")
    given = ["-m", model, "-n", job, "--classifier", classifier, "--data", data, "--prompts", prompts]
    result = box.ctl("evaluate", *given, "--samples", 2, "--scales", "1,1.5", "--betas", "0.5",
                     "--seeds", "3", "--out", out)
    with open(out + "/metrics.json") as file:
        found = {(c["scale"], c["beta"], c["seed"]) for c in json.load(file)["cells"]}
    check((1.5, 0.5, 3) in found and {(g, s) for g, _, s in found} == {(1, 3), (1.5, 3)}, f"cells: {found}")
    check(os.path.getsize(out + "/report.html") > 1000, "report.html is empty")
    table = box.ctl("evaluate", "--show", out, connect=False).out
    check_in("1.5", table, "table")
    check(result.out.endswith(table), f"expected the table at the end: {result}")
    for args, part in ((given[:6], "--data"), ([*given, "--scales", "1,x"], "--scales"),
                       ([*given, "--samples", 1], "--samples"), (["--show", data], "metrics.json")):
        check_in(part, box.ctl("evaluate", *args, check_code=2).err, f"error for {args}")
    box.ctl("evaluate", *given[:3], 77, *given[4:], check_code=5)


harness.main()
