"""What is known about stretches of text; class paths such as ``pretraining.annotations.Lexicon`` name this room."""

from pretraining.annotations.base import Annotator, RecordAnnotator, RecordText, TextAnnotator
from pretraining.annotations.field import RecordField
from pretraining.annotations.lexicon import CapitalisedNames, ContentPhrases, Lexicon, Words
from pretraining.annotations.linked import LinkedEntities
from pretraining.annotations.to_tokens import Annotations, Found, Piece

__all__ = [
    "Annotations",
    "Annotator",
    "CapitalisedNames",
    "ContentPhrases",
    "Found",
    "Lexicon",
    "LinkedEntities",
    "Piece",
    "RecordAnnotator",
    "RecordField",
    "RecordText",
    "TextAnnotator",
    "Words",
]
