"""The wire protocol from the other side: nanomsg's REQ over a plain socket and the frames of
docs/protocol.md, so that a test can ask what npoctl never would and send what nobody should."""
import json
import os
import random
import socket
import struct

HEADER = struct.Struct("<2sBBIQQQ")
GREETING_REQ = b"\0SP\0\0\x30\0\0"
IDS = {"hello": 1, "heartbeat": 2, "pull": 3, "done": 4, "info": 40, "upload_open": 20,
       "upload_chunk": 21, "upload_close": 22, "job": 43}


def frame(message, body, boot=1, request=1, epoch=0, payload=b"", magic=b"NP", version=1):
    """message: a name or a number; body: an object, or bytes as they are."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    number = IDS.get(message, message)
    return HEADER.pack(magic, version, number, len(text), boot, request, epoch) + text + payload


class Wire:
    """One connection to an ipc address of npod."""

    def __init__(self, path, greeting=GREETING_REQ, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.boot, self.request = random.getrandbits(63) | 1, 0
        if greeting:
            self.socket.sendall(greeting)
            self.read(8)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError("npod closed the connection")
            data += part
        return data

    def send(self, message):
        """A whole message: nanomsg's ipc framing and REQ's request id in front."""
        body = struct.pack(">I", 0x80000000 | random.getrandbits(30)) + message
        self.socket.sendall(b"\x01" + struct.pack(">Q", len(body)) + body)

    def receive(self):
        """(id without the reply bit, object, payload)."""
        kind, size = struct.unpack(">BQ", self.read(9))
        data = self.read(size)[4:]
        _, _, number, length, boot, request, _ = HEADER.unpack(data[:HEADER.size])
        assert number & 0x80 and (boot, request) == (self.boot, self.request)
        text = data[HEADER.size:HEADER.size + length]
        return number & 0x7F, json.loads(text), data[HEADER.size + length:]

    def ask(self, message, body, payload=b""):
        self.request += 1
        self.send(frame(message, body, self.boot, self.request, payload=payload))
        return self.receive()[1]


def hostile_frames(draw):
    """Messages that no peer of ours sends, each one whole for nanomsg."""
    deep = b"[" * 5000 + b"]" * 5000
    yield b""
    yield b"NP"
    yield bytes(draw.randrange(256) for _ in range(200))
    yield frame("info", {}, magic=b"XX")
    yield frame("info", {}, version=9)
    yield frame(99, {})
    yield frame("info", b"{")
    yield frame("info", b"[]")
    yield frame("info", deep)
    yield frame("info", b'{"a":1,"a":2}')
    yield frame("info", b"{\"a\": \"\xff\xfe\"}")
    yield frame("info", {"x": "y" * 8000})
    yield HEADER.pack(b"NP", 1, 40, 0xFFFFFFFF, 1, 1, 0) + b"{}"
    yield HEADER.pack(b"NP", 1, 0x80 | 40, 2, 1, 1, 0) + b"{}"
    yield frame("upload_chunk", {"hash": "0" * 32, "offset": 0}, payload=b"x" * 100)
    yield frame("hello", {"name": 7})
    yield frame("hello", {"name": "x" * 10000, "device": "cpu"})
    yield frame("done", {"worker": 1, "task": 1, "attempt": 1, "rank": 0, "outputs": []})
    yield frame("pull", {"worker": -1})
    yield frame("heartbeat", {"worker": 2**53, "tasks": [{}] * 500})
    yield frame("upload_open", {"hash": "../../etc/passwd", "size": 1})
    yield frame("upload_open", {"hash": "0" * 32, "size": -1})
    yield frame("upload_open", {"hash": "f" * 32, "size": 1e300})
    for name in IDS:
        yield frame(name, {}, boot=draw.getrandbits(64), request=draw.getrandbits(64))
        yield frame(name, {}, epoch=2**64 - 1)


def hostile_streams():
    """Bytes that break nanomsg's own framing: (greeting or None, bytes). Not among them: another kind of
    message than 1 in its ipc framing, on which nanomsg 1.1.5 ends the process; the folder's mode keeps
    strangers from that socket."""
    yield None, os.urandom(64)
    yield b"GET / HTTP/1.1\r\n\r\n"[:8], b""
    yield b"\0SP\0\0\x50\0\0", b"\x01" + struct.pack(">Q", 8) + b"12345678"
    yield GREETING_REQ, b"\x01" + struct.pack(">Q", 2**63) + b"x"
    yield GREETING_REQ, b"\x01" + struct.pack(">Q", 2**64 - 1) + b"x"
    yield GREETING_REQ, b"\x01" + struct.pack(">Q", 2**25) + b"x" * 4096
    yield GREETING_REQ, b"\x01" + struct.pack(">Q", 0)
    yield GREETING_REQ, b"\x01" + struct.pack(">Q", 1000) + b"x" * 10
