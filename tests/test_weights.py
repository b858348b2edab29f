"""Weight tables in both directions: bit for bit, every tensor once, bad input, and what can or cannot be expressed."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import re
import tempfile
import typing
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import GRID
from safetensors.torch import load_file
from stock import (
    LABELS,
    Case,
    Ours,
    bare_cases,
    both_scores,
    cases,
    make_batch,
    make_stock,
    randomise,
    split_cases,
    stock_config,
    stock_inputs,
    stored,
    tied_names,
)
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from zoo.config import CoreConfig
from zoo.core import Transformer
from zoo.errors import ZooError
from zoo.folder import ModelFacts, save_tensors
from zoo.heads import build_head
from zoo.vocabulary import Template
from zoo.weights.convert import Checkpoint, Model, all_families, read_checkpoint, write_checkpoint
from zoo.weights.facts import canonical, matching_heads, read_config, write_config
from zoo.weights.table import Row, match
