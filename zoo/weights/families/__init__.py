"""Each file has a ``FAMILY`` of rows, and those that share most of them; a new family is added to the tuple here."""

from __future__ import annotations

from zoo.weights.families.albert import FAMILY as ALBERT
from zoo.weights.families.bart import FAMILY as BART
from zoo.weights.families.bart import MARIAN
from zoo.weights.families.bert import ELECTRA, ROBERTA
from zoo.weights.families.bert import FAMILY as BERT
from zoo.weights.families.ernie import FAMILY as ERNIE
from zoo.weights.families.ernie import TSINGHUA as ERNIE_THU
from zoo.weights.families.gpt import FAMILY as GPT
from zoo.weights.families.gpt import GPT2
from zoo.weights.families.llama import FAMILY as LLAMA
from zoo.weights.families.reformer import FAMILY as REFORMER
from zoo.weights.families.t5 import FAMILY as T5
from zoo.weights.families.xlm import FAMILY as XLM
from zoo.weights.families.xlnet import FAMILY as XLNET

FAMILIES = (ALBERT, BART, BERT, ELECTRA, ERNIE, ERNIE_THU, GPT, GPT2, LLAMA, MARIAN, REFORMER, ROBERTA, T5, XLM, XLNET)
"""Every family."""
