"""A tiny LLaVA that has learned, in seconds, to say one sentence about anything."""

from pathlib import Path

import torch

from sharecap.model.folder import save

from ..model.tiny import picture, tiny_llava

SAYS = "A red boat lies on the calm water, and a white house stands behind it."


def talking_model(place: Path, prompt: str) -> Path:
    """The directory of the model; `prompt` is what it will be asked."""
    llava = tiny_llava(place)
    save(llava, place / "blank")  # gives the processor its template
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    asked = llava.processor.apply_chat_template([turn], add_generation_prompt=True)
    pictures = [picture(seed) for seed in range(4)]
    inputs = llava.processor(
        images=pictures, text=[f"{asked} {SAYS}</s>"] * len(pictures), return_tensors="pt", padding=True
    )
    before = llava.processor(images=pictures[:1], text=[asked], return_tensors="pt")["input_ids"].shape[1]
    labels = inputs["input_ids"].clone()
    labels[:, :before] = -100
    optimizer = torch.optim.AdamW(llava.model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = llava.model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    save(llava, place / "captioner")
    return place / "captioner"
