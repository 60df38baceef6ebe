"""The published files of rows that the recipes read, with what is known of each: counts, lengths, where from.

Numbers of rows are those of the papers and of the files. Lengths are estimates in Vicuna's tokens, made from
the stated mean characters (4.4 of English to a token) and from what such rows look like; they decide what
`sharecap plan` says, and nothing else. With the files at hand it measures lengths instead.
"""

from dataclasses import replace

from sharecap.recipes.recipe import Source
from sharecap.train.cost import RowKind

SYSTEM = 42
"""Tokens of vicuna_v1's first words, with the start token and the words around one question."""

SHORT = 14
"""Tokens of a BLIP caption: 54 characters (the paper's Table 1), and the end of the line."""

DETAILED = 189
"""Tokens of a Share-Captioner caption: 826 characters (Table 1), and the end of the line."""


def chat(name: str, rows: int, asked: int, answered: int, images: int = 1) -> RowKind:
    """Rows of questions and answers: tokens of all questions of a row, of all its answers."""
    return RowKind(name, rows, images, SYSTEM + asked, answered)


LLAVA_CC3M_595K = Source(
    file="llava/chat.json",
    images="llava/cc3m/images",
    kinds=(RowKind("web captions", 595_375, 1, 1, 14),),
    origin="huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K",
)
LLAVA_LCS_558K = Source(
    file="llava/llava_pretrain/blip_laion_cc_sbu_558k.json",
    images="llava/llava_pretrain/images",
    kinds=(RowKind("short captions", 558_128, 1, 1, SHORT),),
    origin="huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
)
SHAREGPT4V_PT = Source(
    file="sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json",
    kinds=(RowKind("detailed captions", 1_246_000, 1, 1, DETAILED),),
    origin="huggingface.co/datasets/Lin-Chen/ShareGPT4V; its page says where the images are",
)

DETAIL = chat("detailed descriptions", 23_000, asked=14, answered=140)
INSTRUCT = (
    chat("conversations", 58_000, asked=60, answered=220),
    DETAIL,
    chat("complex reasoning", 76_712, asked=25, answered=210),
)
LLAVA_INSTRUCT_158K = Source(
    file="llava/llava_instruct_158k.json",
    images="coco/train2017",
    kinds=INSTRUCT,
    origin="huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
)
LLAVA_MIX_665K = Source(
    file="llava/llava_v1_5_mix665k.json",
    kinds=(
        *INSTRUCT,
        chat("ShareGPT, text alone", 40_688, asked=350, answered=900, images=0),
        chat("VQAv2", 82_783, asked=110, answered=15),
        chat("GQA", 72_140, asked=270, answered=30),
        chat("OKVQA", 8_998, asked=25, answered=3),
        chat("OCR-VQA", 80_000, asked=110, answered=40),
        chat("A-OKVQA", 66_160, asked=50, answered=2),
        chat("TextCaps", 21_953, asked=40, answered=15),
        chat("RefCOCO", 48_447, asked=250, answered=130),
        chat("Visual Genome", 86_417, asked=350, answered=200),
    ),
    origin="huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K; LLaVA's page says where the images are",
)
SHAREGPT4V_MIX_665K = Source(
    file="sharegpt4v/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",
    kinds=tuple(
        # 942 characters (Table 1). Of COCO, images that LLaVA describes too, 9K; LCS 3K; SAM 9K; others 2K.
        replace(kind, name="ShareGPT4V captions", learned=216.0) if kind is DETAIL else kind
        for kind in LLAVA_MIX_665K.kinds
    ),
    origin="huggingface.co/datasets/Lin-Chen/ShareGPT4V; its page says where the images are",
)
