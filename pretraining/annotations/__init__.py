"""What is known about stretches of text, as numbers per token: the classes that ``corpus.annotations`` names."""

from pretraining.annotations.base import Annotator, RecordAnnotator, RecordText, TextAnnotator
from pretraining.annotations.english import CapitalisedNames, ContentPhrases
from pretraining.annotations.field import RecordField
from pretraining.annotations.lexicon import Lexicon, Words
from pretraining.annotations.linked import LinkedEntities

__all__ = [
    "Annotator",
    "CapitalisedNames",
    "ContentPhrases",
    "Lexicon",
    "LinkedEntities",
    "RecordAnnotator",
    "RecordField",
    "RecordText",
    "TextAnnotator",
    "Words",
]
