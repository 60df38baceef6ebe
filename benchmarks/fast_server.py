"""A chat-completions server that costs as little as can be, so that a benchmark measures its client.

Raw asyncio, no parsing of bodies. Every answer is another caption of about 950 characters. Prints its port,
serves until its stdin is closed, then prints how many requests it answered.
"""

import asyncio
import json
import random
import sys

WORDS = (
    "a the of and with on beside under behind above near two three small large old wooden red blue green white "
    "table chair window door garden tree river bridge street boat bicycle lamp book cup plate dog cat bird child "
    "woman man stands sits lies leans shines rests light shadow morning evening quiet bright narrow wide stone "
    "glass metal cloth paper flower leaf cloud sky water sand grass roof wall floor corner edge middle"
).split()
CAPTIONS, CHARACTERS = 5_000, 950


def caption(number: int) -> str:
    """Some sentences, another set for every number."""
    rng = random.Random(number)
    text = f"Picture {number} shows"
    while len(text) < CHARACTERS:
        text += " " + " ".join(rng.choices(WORDS, k=rng.randint(8, 18))) + "."
    return text


def response(number: int) -> bytes:
    """The whole HTTP response."""
    message = {"role": "assistant", "content": caption(number)}
    usage = {"prompt_tokens": 1100, "completion_tokens": 220, "total_tokens": 1320}
    body = {
        "id": f"chatcmpl-{number}",
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
    responses: tuple[bytes, ...] = ()
    latency_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.head, self.missing = transport, b"", -1

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = self.head[:end].lower().split(b"\r\n")
            length = next((line.split(b":")[1] for line in lines if line.startswith(b"content-length:")), b"0")
            self.missing = int(length) - (len(self.head) - end - 4)
            self.head = b""
        else:
            self.missing -= len(data)
        if self.missing <= 0:
            self.missing = -1
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        """Send the next caption."""
        if not self.transport.is_closing():
            self.transport.write(self.responses[Connection.answered % CAPTIONS])
        Connection.answered += 1


async def main(latency_s: float) -> None:
    """Serve until stdin is closed."""
    Connection.latency_s = latency_s
    Connection.responses = tuple(map(response, range(CAPTIONS)))
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin, end.set)
    await end.wait()
    print(Connection.answered, flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1000))
