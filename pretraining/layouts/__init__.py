"""How text becomes rows; class paths such as ``pretraining.layouts.Blocks`` name this room."""

from pretraining.layouts.at_least import MinimumMarked
from pretraining.layouts.base import Layout, Plan
from pretraining.layouts.blocks import Blocks
from pretraining.layouts.buffered_pairs import BufferedPairs
from pretraining.layouts.dialogue import Dialogue
from pretraining.layouts.examples import Examples
from pretraining.layouts.full_sentences import FullSentences
from pretraining.layouts.labelled_pairs import LabelledPairs
from pretraining.layouts.language_streams import LanguageStreams
from pretraining.layouts.pairs import PairTable
from pretraining.layouts.reordered_segments import DocumentSegments, ReorderedSegments
from pretraining.layouts.segment_pairs import SegmentPairs
from pretraining.layouts.segments import Segments
from pretraining.layouts.sentence_distance import SentenceDistance
from pretraining.layouts.sentence_pairs import SentencePairs
from pretraining.layouts.sentences import SentenceTable
from pretraining.layouts.translation_pairs import TranslationPairs
from pretraining.layouts.translation_rows import TranslationRows

__all__ = [
    "Blocks",
    "BufferedPairs",
    "Dialogue",
    "DocumentSegments",
    "Examples",
    "FullSentences",
    "LabelledPairs",
    "LanguageStreams",
    "Layout",
    "MinimumMarked",
    "PairTable",
    "Plan",
    "ReorderedSegments",
    "SegmentPairs",
    "Segments",
    "SentenceDistance",
    "SentencePairs",
    "SentenceTable",
    "TranslationPairs",
    "TranslationRows",
]
