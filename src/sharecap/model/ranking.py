"""How likely a model finds given answers: multiple choice by likelihood, with no letter to be parsed.

The loss of an answer is the training's own: the mean cross-entropy of its tokens and of those that end it, in
the model's template (SEED-Bench's answer ranking, arXiv 2307.16125, section 4).

Shape letters: B rows of the batch, T tokens, C width, N tokens of all answers, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sharecap.chat.templates import question
from sharecap.chat.tokenise import Document
from sharecap.errors import SharecapError
from sharecap.model.generation import Generator, Query
from sharecap.records import Turn


def losses(
    generator: Generator, queries: Sequence[Query], answers: Sequence[Sequence[str]]
) -> list[list[float]]:
    """For each query the loss of each of its answers, in nats per token.

    `ImageError` names a picture that can't be read, `SharecapError` a row that is too long.
    """
    pairs = [(query, answer) for query, some in zip(queries, answers, strict=True) for answer in some]
    rows = []
    generator.asked = {
        f"{i}.{j}": p for i, (query, _) in enumerate(pairs) for j, p in enumerate(query.images)
    }
    for i, (query, answer) in enumerate(pairs):
        asked = question([f"{i}.{j}" for j in range(len(query.images))], query.text, str(i))
        rows.append(replace(asked, turns=(*asked.turns, Turn("assistant", answer))))
    documents = generator.cutter.documents(rows)
    room = generator.llava.config.text_config.max_position_embeddings
    if (longest := max(map(len, documents), default=0)) > room:
        what = f"a question with an answer has {longest} tokens where the model has room for {room}"
        raise SharecapError(what, todo="leave the question out")
    found = [0.0] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(documents[i]))
    for at in range(0, len(order), generator.batch_size):
        chosen = order[at : at + generator.batch_size]
        means = _batch(generator, [pairs[i][0] for i in chosen], [documents[i] for i in chosen])
        for i, mean in zip(chosen, means, strict=True):
            found[i] = mean
    ahead = iter(found)
    return [[next(ahead) for _ in some] for some in answers]


@torch.inference_mode()
def _batch(generator: Generator, queries: Sequence[Query], documents: Sequence[Document]) -> list[float]:
    """The loss of each row; a row's answer is what it learned in training."""
    hidden_BTC, mask_BT, positions, extra = generator.embed(queries, documents)
    model: Any = generator.model
    out_BTC = model.model.language_model(
        inputs_embeds=hidden_BTC,
        attention_mask=None if bool(mask_BT.all()) else mask_BT,
        position_ids=positions,
        use_cache=False,
        **extra,
    ).last_hidden_state
    longest = out_BTC.shape[1]
    rows, places, targets = [], [], []
    for row, document in enumerate(documents):
        learned = np.flatnonzero(document.learned)
        rows += [row] * len(learned)
        places += (longest - len(document) + learned - 1).tolist()  # the token before tells of it
        targets += document.ids[learned].tolist()
    logits_NV = model.lm_head(out_BTC[rows, places]).float()
    each_N: Tensor = cross_entropy(
        logits_NV, torch.tensor(targets, device=logits_NV.device), reduction="none"
    )
    index = torch.tensor(rows, device=each_N.device)
    sums = each_N.new_zeros(len(documents)).index_add_(0, index, each_N)
    return (sums / torch.bincount(index, minlength=len(documents))).tolist()
