"""Writes golden_frames.h: one request frame a message, put together by struct from docs/protocol.md's byte
table, independently of proto/frame.c. Run from this folder after messages.def changed."""
import json
import re
import struct

ROWS = re.findall(r'^NPO_MESSAGE\((\d+), (\w+), "(\w+)", \w+, (\w+), (\d+), \d\)',
                  open("../../../proto/messages.def").read(), re.M)
FENCE = {"worker": 3, "task": 41, "attempt": 2, "rank": 1}
HASH = "00112233445566778899aabbccddeeff"
BODIES = {
    "hello": {"name": "w0", "device": "cpu", "class": "cpu avx2", "threads": 2, "memory_bytes": 8589934592,
              "labels": {"zone": "a"}, "build": "0.1.0", "protocol": [1, 1]},
    "heartbeat": {"worker": 3, "state": "idle", "tasks": []},
    "pull": {"worker": 3},
    "done": dict(FENCE, outputs=[{"name": "pool", "hash": HASH, "size": 7}], result={}),
    "fail": dict(FENCE, code="PEER", text="it ended", retry=True),
    "append": dict(FENCE, stream="log", offset=12),
    "rendezvous_set": dict(FENCE, key="rank.0", value="AAEC"),
    "rendezvous_get": dict(FENCE, key="rank.0"),
    "goodbye": {"worker": 3},
    "upload_open": dict(FENCE, hash=HASH, size=9),
    "upload_chunk": {"hash": HASH, "offset": 4194304},
    "upload_close": {"hash": HASH},
    "download": {"hash": HASH, "offset": 0, "bytes": 4194304},
    "artifacts_missing": {"hashes": [HASH]},
    "info": {},
    "submit": {"key": "k", "spec": {"recipe": "export"}, "from": {"job": 1, "step": None}},
    "jobs": {"limit": 10, "before": 0},
    "workers": {},
    "events": {"after": 5, "job": 0, "limit": 100},
    "stream": {"task": 41, "attempt": 0, "rank": 0, "stream": "log", "offset": 0, "bytes": 65536},
    "resolve": {"job": 1, "name": "model", "step": None},
}
PAYLOADS = {"append": b"a line\n", "upload_chunk": bytes(range(256)) * 2}


def c_bytes(data):
    lines = [", ".join(f"0x{b:02x}" for b in data[i:i + 16]) for i in range(0, len(data), 16)]
    return ",\n    ".join(lines)


with open("golden_frames.h", "w") as out:
    out.write("/* Made by golden_frames.py; do not edit. */\n")
    names = []
    for number, upper, name, _, _ in ROWS:
        text = json.dumps(BODIES.get(name, {"job": 1}), separators=(",", ":")).encode()
        payload = PAYLOADS.get(name, b"")
        n = int(number)
        frame = struct.pack("<2sBBIQQQ", b"NP", 1, n, len(text), 0x0102030405060708 + n, 1000 + n, n)
        names.append((upper, name, len(text), len(payload)))
        out.write(f"static const unsigned char golden_{name}[] = {{\n    {c_bytes(frame + text + payload)}}};\n")
    out.write("static const struct {\n    npo_message id;\n    const char *name;\n"
              "    const unsigned char *bytes;\n    size_t len, json_len, payload_len;\n} golden[] = {\n")
    for upper, name, json_len, payload_len in names:
        out.write(f'    {{NPO_MESSAGE_{upper}, "{name}", golden_{name}, sizeof golden_{name}, {json_len}, '
                  f"{payload_len}}},\n")
    out.write("};\n")
