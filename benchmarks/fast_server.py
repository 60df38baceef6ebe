"""A chat-completions server that costs as little as can be, so that a benchmark measures its client.

Raw asyncio, no parsing of bodies. Every picture has its own caption of about 950 characters, told by the
first bytes of the request. Prints its port, serves until its stdin is closed.
"""

import asyncio
import functools
import json
import random
import sys
import zlib

SPOKEN = """
a the of and with on beside under behind above near two three small large old wooden red blue green
white table chair window door garden tree river bridge street boat bicycle lamp book cup plate dog
cat bird child woman man stands sits lies leans shines rests light shadow morning evening quiet
bright narrow wide stone glass metal cloth paper flower leaf cloud sky water sand grass roof wall
floor corner edge middle
"""
WORDS = SPOKEN.split()
HALVES, CHARACTERS = 5_000, 470
LOOKED_AT = 4_096
"""Bytes of a body that tell which picture it is about: base64 begins before them."""


@functools.cache
def half(number: int) -> str:
    """Some sentences, another set for every number, all of the same length."""
    rng = random.Random(number)
    text = ""
    while len(text) < CHARACTERS:
        text += " " + " ".join(rng.choices(WORDS, k=rng.randint(8, 18))).capitalize() + "."
    return text[: CHARACTERS - 1] + "."


def caption(number: int) -> str:
    """About 950 characters, the same for the same number."""
    return half(number % HALVES)[1:] + half(HALVES + number // HALVES % HALVES)


def frame(caption: str) -> bytes:
    """The whole HTTP response."""
    message = {"role": "assistant", "content": caption}
    usage = {"prompt_tokens": 1100, "completion_tokens": 220, "total_tokens": 1320}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "fast",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Connection(asyncio.Protocol):
    """One request after the other, each told from the next by its Content-Length."""

    answered = 0
    latency_s = 0.0
    begin, end = frame("~").split(b"~")
    firsts: tuple[bytes, ...] = ()
    seconds: tuple[bytes, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.head, self.seen, self.missing = transport, b"", b"", -1

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = self.head[:end].lower().split(b"\r\n")
            lengths = (line.split(b":")[1] for line in lines if line.startswith(b"content-length:"))
            self.seen = self.head[end + 4 :][:LOOKED_AT]
            self.missing = int(next(lengths, b"0")) - (len(self.head) - end - 4)
            self.head = b""
        else:
            if len(self.seen) < LOOKED_AT:
                self.seen += data[: LOOKED_AT - len(self.seen)]
            self.missing -= len(data)
        if self.missing <= 0:
            self.missing = -1
            number = zlib.crc32(self.seen)
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.answer, number)
            else:
                self.answer(number)

    def answer(self, number: int) -> None:
        """Send the picture's caption. All have the same length, so that the frame is made once."""
        if not self.transport.is_closing():
            text = self.firsts[number % HALVES] + self.seconds[number // HALVES % HALVES]
            self.transport.write(b"".join((self.begin, text, self.end)))
        Connection.answered += 1


async def main(latency_s: float) -> None:
    """Serve until stdin is closed."""
    size = 2 * CHARACTERS - 1
    Connection.latency_s = latency_s
    Connection.firsts = tuple(half(n)[1:].encode() for n in range(HALVES))
    Connection.seconds = tuple(half(HALVES + n).encode() for n in range(HALVES))
    Connection.begin, Connection.end = frame("~" * size).split(b"~" * size)
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin, end.set)
    await end.wait()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1000))
