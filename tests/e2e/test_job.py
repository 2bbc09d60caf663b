#!/usr/bin/env python3
"""Whole jobs on a tiny model: what comes out, and that it comes out the same whichever way it was made."""
import json
import os
import struct

import harness
import tiny_model
from harness import check, check_equal, check_in, test


def read_safetensors(path):
    """({name: (shape, bytes)}, metadata)"""
    with open(path, "rb") as file:
        data = file.read()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    body = data[8 + size:]
    return {name: (tuple(t["shape"]), body[slice(*t["data_offsets"])]) for name, t in header.items()}, \
        metadata


def finish(box, spec, *args):
    job = box.submit(spec, *args)
    box.wait_state(job, "done", timeout=60)
    return job


def model_of(box, job):
    """Hash of the exported model."""
    return [digest for (_, name), digest in box.outputs(job).items() if name == "model"][0]


def checkpoints(box, job):
    return {c["step"]: c["hash"] for c in box.status(job)["checkpoints"]}


@test
def self_npo_from_submit_to_export(box):
    box.cluster()
    job = finish(box, box.self_npo(preview_rounds=1, sample={"count": 4, "steps": 4}))
    check_equal(sorted(checkpoints(box, job)), [2, 4], "steps of the checkpoints")
    state = box.job(job)
    check_equal((state["step"], state["round"], state["rounds"]), (4, 2, 2), "step, rounds done, rounds")

    out = box.dir + "/out"
    box.ctl("get", job, "--out", out)
    files = {n: os.path.join(d, n) for d, _, names in os.walk(out) for n in names}
    for name in ("preview-2.png", "preview-4.png"):
        with open(files[name], "rb") as file:
            check_equal(file.read(8), b"\x89PNG\r\n\x1a\n", f"first bytes of {name}")

    folder = box.dir + "/negative"
    box.ctl("export", job, folder)
    base, _ = read_safetensors(box.model() + "/unet/diffusion_pytorch_model.safetensors")
    trained, _ = read_safetensors(folder + "/unet/diffusion_pytorch_model.safetensors")
    check_equal({n: s for n, (s, _) in trained.items()}, {n: s for n, (s, _) in base.items()},
                "names and shapes of the network")
    changed = [n for n in base if base[n][1] != trained[n][1]]
    check(len(changed) > len(base) // 2, f"only {changed} changed")
    for part in ("tokenizer/vocab.json", "text_encoder/model.safetensors",
                 "scheduler/scheduler_config.json", "model_index.json"):
        check_equal(harness.tree_hash(f"{folder}/{part}"), harness.tree_hash(f"{box.model()}/{part}"),
                    part)

    again = finish(box, box.self_npo(preview_rounds=1, sample={"count": 4, "steps": 4}))
    check_equal(box.outputs(again), box.outputs(job), "outputs of the same job again")
    other = finish(box, box.self_npo(seed=8))
    check(model_of(box, other) != model_of(box, job), "another seed gave the same model")


def floats(tensor):
    shape, data = tensor
    return struct.unpack(f"<{len(data) // 4}f", data)


UNET = "/unet/diffusion_pytorch_model.safetensors"


@test
def export_in_every_form(box):
    box.cluster()
    job = finish(box, box.self_npo())
    box.ctl("export", job, box.dir + "/negative")
    base, _ = read_safetensors(box.model() + UNET)
    negative, _ = read_safetensors(box.dir + "/negative" + UNET)

    def compare(path, scale, keep=1.0):
        tensors, _ = read_safetensors(path)
        check_equal(sorted(tensors), sorted(base), f"tensors of {path}")
        for name in base:
            for x, b, n in zip(floats(tensors[name]), floats(base[name]), floats(negative[name])):
                expected = keep * b + scale * (n - b)
                check(abs(x - expected) < 1e-6, f"{path}: {name} holds {x}, expected {expected}")

    out = box.dir + "/"
    box.ctl("export", job, out + "half", "--beta", "0.5")
    compare(out + "half" + UNET, 0.5)
    box.ctl("export", job, out + "one", "--form", "one-network", "--weight", "0.25")
    compare(out + "one" + UNET, -0.25)
    box.ctl("export", job, out + "delta.safetensors", "-f", "delta")
    compare(out + "delta.safetensors", 1.0, keep=0.0)
    box.ctl("export", out + "negative", out + "merge", "--form", "merge", "--positive", job, "--model",
            box.model(), "--alpha", "0.5", "--beta", "0.25")
    compare(out + "merge" + UNET, 0.75)
    box.ctl("export", f"{job}@4", out + "at4", "-f", "delta")
    check_equal(harness.tree_hash(out + "at4"), harness.tree_hash(out + "delta.safetensors"),
                "delta of the last checkpoint")

    done = box.ctl("export", job, out + "lora.safetensors", "-f", "lora", "--rank", "4096")
    check_in("error ", done.out, "what npoctl export prints")
    lora, _ = read_safetensors(out + "lora.safetensors")
    check_in("unet.conv_in.lora_A.weight", lora, "names of a LoRA")
    with open(out + "lora.safetensors.json") as file:
        report = json.load(file)
    check(0 < report["error"] < 1, f"biases are left out: {report['error']}")
    check(max(layer["error"] for layer in report["layers"]) < 1e-5, "error at full rank")
    box.ctl("export", job, out + "kohya.safetensors", "-f", "lora", "-e", "0.5", "--naming", "kohya",
            "--dtype", "f16")
    kohya, _ = read_safetensors(out + "kohya.safetensors")
    check_in("lora_unet_conv_in.lora_down.weight", kohya, "names of a LoRA of kohya")


@test
def export_refuses_what_makes_no_sense(box):
    box.cluster()
    job = finish(box, box.self_npo(steps=2))
    out = box.dir + "/out"
    for options, sentence in (
            (["-f", "lora"], "missing key 'export.rank'"),
            (["-f", "lora", "--rank", "0"], "--rank"),
            (["-f", "lora", "--energy", "1.5"], "--energy"),
            (["-f", "one-network"], "missing key 'export.w'"),
            (["-f", "merge"], "missing key 'positive'"),
            (["-f", "half"], "export.form"),
            (["--positive", box.model(2)], "'positive' has no meaning")):
        done = box.ctl("export", job, out, *options, check_code=2)
        check_in(sentence, done.err, f"what npoctl export {options} says")
    other = box.dir + "/other"
    harness.tiny_model.make(other, size=8)
    with open(other + "/unet/config.json") as file:
        config = json.load(file)
    config["cross_attention_dim"] = 24
    with open(other + "/unet/config.json", "w") as file:
        json.dump(config, file)
    done = box.ctl("export", other, out, "--model", other, "-f", "delta", check_code=1)
    check_in("shape", done.err, "what npoctl export says of another network")
    check(not os.path.exists(out) and not os.path.exists(out + ".json"), "something was written")


@test
def metrics_are_json_lines(box):
    box.cluster()
    job = finish(box, box.self_npo())
    lines = [json.loads(line) for line in box.ctl("logs", job, "--stream", "metrics").out.splitlines()]
    trained = [line for line in lines if "loss" in line]
    check_equal([line["step"] for line in trained], [1, 2, 3, 4], "steps in the metrics")
    for line in trained:
        check(all(k in line for k in ("loss", "grad_norm", "samples_per_s")), f"keys of {line}")
    made = [line for line in lines if line.get("phase") in ("generate", "truncate")]
    check(made, "no metrics of generate and truncate")
    for line in made:
        check_equal(line["conditional"], 0, "conditional passes with w_gen = -1")
        check(line["unconditional"] > 0, f"no unconditional passes in {line}")


@test
def staged_equals_fused(box):
    box.cluster()
    for more in ({}, {"generate": {"w_gen": -5}}, {"train": {"empty_prompt_share": 0.5}}):
        staged = finish(box, box.self_npo(steps=5, round_steps=1, pipeline="staged", **more))
        fused = finish(box, box.self_npo(steps=5, round_steps=1, pipeline="fused", **more))
        check_equal(checkpoints(box, fused), checkpoints(box, staged), f"checkpoints with {more}")
        check_equal(model_of(box, fused), model_of(box, staged), f"model with {more}")


@test
def continuing_equals_never_having_stopped(box):
    box.cluster()
    for pipeline in ("staged", "fused"):
        whole = finish(box, box.self_npo(steps=8, pipeline=pipeline))
        half = finish(box, box.self_npo(steps=4, pipeline=pipeline))
        rest = finish(box, box.self_npo(steps=8, pipeline=pipeline), "--from", half)
        branch = finish(box, box.self_npo(steps=8, pipeline=pipeline), "--from", f"{half}@2")
        for job in (rest, branch):
            check_equal(checkpoints(box, job)[8], checkpoints(box, whole)[8], f"{pipeline} checkpoint")
            check_equal(model_of(box, job), model_of(box, whole), f"{pipeline} model")
    box.ctl("submit", box.job_file(box.self_npo(steps=4)), "--from", half, check_code=5)
    box.ctl("submit", box.job_file(box.self_npo(steps=8)), "--from", f"{half}@3", check_code=5)


@test
def interrupted_and_retried_equals_undisturbed(box):
    workers = box.cluster()
    job = finish(box, box.self_npo(steps=8))
    disturbed = box.submit(box.self_npo(steps=8))
    box.wait_running(disturbed, "train")
    workers[1].kill()
    box.worker("w3")
    box.wait_state(disturbed, "done")
    check_equal(model_of(box, disturbed), model_of(box, job), "model")


@test
def starts_and_staleness(box):
    box.cluster()
    spec = box.self_npo(generate={"starts": "latents"}, data=box.data(), prompts=tiny_model.PROMPTS[:3])
    models = {model_of(box, finish(box, spec))}
    models.add(model_of(box, finish(box, box.self_npo(generate={"starts": "full"}))))
    models.add(model_of(box, finish(box, box.self_npo(generate={"starts": "noise"}))))
    models.add(model_of(box, finish(box, box.self_npo(generate={"starts": "noise", "stagger": False}))))
    models.add(model_of(box, finish(box, box.self_npo(steps=6, staleness=1))))
    check_equal(len(models), 5, "different models")


@test
def diffusion_makes_a_base_for_self_npo(box):
    box.cluster()
    spec = {"recipe": "diffusion", "model": box.model(), "data": box.data(), "workers": 2, "seed": 3,
            "round_steps": 4, "prompts": tiny_model.PROMPTS[:3],
            "train": {"steps": 8, "batch": 8, "lr": 1e-4, "warmup_steps": 0, "lr_schedule": "constant"}}
    random = finish(box, {**spec, "init_random": True})
    whole = finish(box, spec)
    check(model_of(box, whole) != model_of(box, random), "init_random changed nothing")
    half = finish(box, {**spec, "train": {**spec["train"], "steps": 4}})
    rest = finish(box, spec, "--from", half)
    check_equal(model_of(box, rest), model_of(box, whole), "continued model")
    folder = box.dir + "/base"
    box.ctl("export", whole, folder)
    negative = finish(box, {**box.self_npo(lr=1e-4), "model": folder})
    check(model_of(box, negative) != model_of(box, whole), "training changed nothing")


@test
def sample_with_the_negative_network(box):
    box.cluster()
    job = finish(box, box.self_npo())
    box.ctl("export", job, box.dir + "/negative")
    made = []
    for _ in range(2):
        spec = {"recipe": "sample", "model": box.model(), "negative": box.dir + "/negative",
                "prompts": tiny_model.PROMPTS, "sample": {"count": 6, "steps": 5, "guidance_scale": 2,
                                                          "seed": 4, "batch": 4, "grid": True}}
        made.append(box.outputs(finish(box, spec)))
    check_equal(made[0], made[1], "images of the same job")
    plain = {**spec, "sample": {**spec["sample"], "guidance_scale": 1}}
    check(box.outputs(finish(box, plain)) != made[0], "guidance changed nothing")
    out = box.dir + "/images"
    box.ctl("get", 2, "--out", out)
    names = sorted(n for _, _, files in os.walk(out) for n in files)
    check_equal([n for n in names if n.startswith("image-")], [f"image-{i:05}.png" for i in range(6)],
                "images")
    check_in("grid.png", names, "images")


@test
def evaluation_of_any_number_of_workers_is_equal(box):
    box.cluster()
    model, data = box.dir + "/model28", box.dir + "/data28"
    tiny_model.make(model, size=28)
    tiny_model.make_data(data, count=200, size=28, labels=10)
    prompts = [f"a photo of a {i}" for i in range(10)]
    classifier = finish(box, {"recipe": "classifier", "data": data, "round_steps": 2,
                              "train": {"steps": 4, "batch": 16, "lr": 1e-3, "warmup_steps": 0}})
    box.ctl("export", classifier, box.dir + "/classifier")
    section = {"classifier": box.dir + "/classifier", "data": data, "samples": 20, "scales": [1.5, 2],
               "betas": [0.5, 1]}
    spec = {**box.self_npo(steps=2), "model": model, "data": data, "prompts": prompts,
            "sample": {"steps": 3, "batch": 5}}
    job = finish(box, {**spec, "evaluate": section})
    box.ctl("export", job, box.dir + "/negative")
    alone = finish(box, {"recipe": "evaluate", "model": model, "negative": box.dir + "/negative",
                         "prompts": prompts, "evaluate": section, "sample": spec["sample"]})
    made = []
    for number in (job, alone):
        box.ctl("get", number, "--out", f"{box.dir}/report{number}")
        with open(f"{box.dir}/report{number}/metrics.json") as file:
            made.append(json.load(file))
        check(os.path.getsize(f"{box.dir}/report{number}/report.html") > 1000, "report.html is empty")
    for key in ("cells", "best", "offset"):
        check_equal(made[1][key], made[0][key], f"{key} of one worker and of two")
    train = made[0]["settings"]["train"]
    check_equal((train["steps"], train["lr_schedule"], train["empty_prompt_share"]), (2, "constant", 0),
                "what the report says of the training")


@test
def many_jobs_share_the_workers(box):
    box.npod()
    for name in ("w1", "w2", "w3"):
        box.worker(name, fake=True)
    jobs = [box.submit(box.self_npo(name="fake", workers=1 + i % 3, batch=6, seed=i % 2))
            for i in range(12)]
    for job in jobs:
        box.wait_state(job, "done")
    for other in jobs[6:]:
        check_equal(box.outputs(other), box.outputs(other - 6), f"outputs of job {other}")


@test
def executor_stays_warm_between_tasks(box):
    box.cluster()
    finish(box, box.self_npo())
    executors = [box.executors_of(p) for p in box.processes[1:]]
    finish(box, box.self_npo(seed=9))
    check_equal([box.executors_of(p) for p in box.processes[1:]], executors, "executors")


harness.main()
