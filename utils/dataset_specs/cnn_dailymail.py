"""CNN / Daily Mail: summarise a news article in a few sentences.

Source: https://huggingface.co/datasets/abisee/cnn_dailymail, config `3.0.0`; See et al. 2017,
https://arxiv.org/abs/1704.04368
Licence: Apache-2.0 says the card of the dataset; the articles are their publishers' text.
At the hub: train 287,113 rows, validation 13,368, test 11,490. Ours: train 100 and validation 100 from validation,
because the train split is over a gigabyte; test 200 from test.

    {"article": "(CNN)The bridge over ...", "highlights": "Bridge reopens .\\nTolls rise .", "id": "8cdf9cc3..."}

becomes Example(id="8cdf9cc3...", inputs={"article": "(CNN)The bridge over ..."}, target="Bridge reopens ...\\nTolls
rise .").
"""

from __future__ import annotations

from utils.dataset_specs.base import DatasetSpec, Row, Sizes, Source, text_of
from utils.metrics.rouge_l import RougeL
from utils.prompt import Prompt
from utils.records import Example


def to_example(row: Row) -> Example:
    """The example of one row; ValueError where article or highlights are missing."""
    return Example(
        id=text_of(row, "id"), inputs={"article": text_of(row, "article")}, target=text_of(row, "highlights")
    )


SPEC = DatasetSpec(
    name="cnn_dailymail",
    summary="news articles, a summary",
    version=1,
    licence="Apache-2.0 (the articles are their publishers' text)",
    sources=(
        Source(
            hub_id="abisee/cnn_dailymail",
            config="3.0.0",
            revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
            columns=("article", "highlights", "id"),
        ),
    ),
    pools={"train": "validation", "validation": "validation", "test": "test"},
    sizes=Sizes(train=100, validation=100, test=200),
    prompt=Prompt(system="Summarize the article.", user="{article}"),
    metrics=(RougeL(),),
    to_example=to_example,
)
