"""A tokenizer of Llama's make, trained here: the pipeline of Llama 2's own file with a small vocabulary."""

import json
from functools import cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.model.tiny import SPECIAL, TEXTS, finished, sentencepiece

MORE = "A chat between a curious human and a model. ### Human: What is it? ### Assistant: It is a café.\n"


@cache
def llama(legacy: bool = True) -> PreTrainedTokenizerFast:
    """BPE without borders between words; bytes for what it lacks, tokens for runs of spaces as Llama has.

    `legacy` (Llama and Vicuna) puts a space before every text, also before what follows a special token;
    otherwise only the very first text gets one. `<image>` is a special token, as llava-hf's files add it.
    """
    trained = sentencepiece([*TEXTS, MORE], legacy)
    inner = json.loads(trained.backend_tokenizer.to_str())
    model = inner["model"]
    for run in (4, 2):  # the rank of a merge is its place: runs of spaces come first in Llama's too
        model["vocab"]["▁" * run] = len(model["vocab"])
        model["merges"].insert(0, ["▁" * (run // 2)] * 2)
    tokenizer = finished(Tokenizer.from_str(json.dumps(inner)), bos=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL))) == SPECIAL
    return tokenizer
