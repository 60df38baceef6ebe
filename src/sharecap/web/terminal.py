"""`sharecap ask`: one question about one image, the answer as it comes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from sharecap import artifact
from sharecap.captions.captioner import Request, Sampling
from sharecap.errors import SharecapError
from sharecap.images.decode import read_bytes
from sharecap.images.place import loose_file
from sharecap.web.ask import Asked


def ask_in_terminal(
    model: str, image: Path, question: str, max_tokens: int, say: Callable[[str], None]
) -> str:
    """The answer, whose pieces `say` gets as they come. `SharecapError` if there is none."""
    asked = Asked(model)
    read_bytes(image)  # what can't be read is said before a model is loaded
    request = Request(
        loose_file(image, artifact.file_digest(image)), question, Sampling(max_tokens=max_tokens)
    )

    async def main() -> str:
        said = []
        try:
            async for piece in asked.stream(request):
                said.append(piece)
                say(piece)
        finally:
            await asked.close()
        return "".join(said)

    answer = asyncio.run(main())
    if not answer.strip():
        raise SharecapError("the model said nothing", where=model)
    return answer.strip()
