"""Names of settings that broke once, old -> new: an old one is an error that says the new one, and no alias."""

from __future__ import annotations

from zoo.settings.checks import RenamedNames

_KEYS = {
    "start": "init_from",
    "chain": "edge",
    "data.copies": "mask_copies",
    "tasks.*.choose": "select",
    "tasks.*.select.init_args.count": "budget",
    "objectives.*.init_args.choose": "select",
    "objectives.*.init_args.select.init_args.count": "budget",
    "objectives.*.init_args.fill": "replacement",
}

_BUDGETS = {"independent": "bernoulli"}
_VALUES = {
    "tasks.*.select.init_args.budget": _BUDGETS,
    "objectives.*.init_args.select.init_args.budget": _BUDGETS,
}

_CLASS_PATHS = {
    "pretraining.choose.Tokens": "pretraining.masking.RandomTokens",
    "pretraining.choose.Spans": "pretraining.masking.RandomSpans",
    "pretraining.choose.Units": "pretraining.masking.KnowledgeUnits",
    "pretraining.choose.WholeWords": "pretraining.masking.WholeWords",
    "pretraining.choose.NGrams": "pretraining.masking.NGrams",
    "pretraining.choose_spans.ContextSpans": "pretraining.masking.ContextSpans",
    "pretraining.fill.Replace": "pretraining.masking.Replace",
    "pretraining.fill_similar.SimilarWords": "pretraining.masking.SimilarWords",
    "pretraining.predict.Selected": "pretraining.masking.Selected",
    "pretraining.predict.All": "pretraining.masking.All",
    "pretraining.annotate.Lexicon": "pretraining.annotations.Lexicon",
    "pretraining.annotate.Words": "pretraining.annotations.Words",
    "pretraining.annotate.Field": "pretraining.annotations.RecordField",
    "pretraining.annotate.Linked": "pretraining.annotations.LinkedEntities",
    "pretraining.annotate_english.Capitalised": "pretraining.annotations.CapitalisedNames",
    "pretraining.annotate_english.ContentPhrases": "pretraining.annotations.ContentPhrases",
    "pretraining.dialogue.Dialogue": "pretraining.layouts.Dialogue",
    "pretraining.documents.DocumentSegments": "pretraining.layouts.DocumentSegments",
    "pretraining.documents.LabelledPairs": "pretraining.layouts.LabelledPairs",
    "pretraining.documents.ReorderedSegments": "pretraining.layouts.ReorderedSegments",
    "pretraining.documents.SentenceDistance": "pretraining.layouts.SentenceDistance",
    "pretraining.segments.Segments": "pretraining.layouts.Segments",
    "pretraining.segments.SegmentPairs": "pretraining.layouts.SegmentPairs",
    "pretraining.layouts_buffer.BufferedPairs": "pretraining.layouts.BufferedPairs",
    "pretraining.layouts_filter.AtLeast": "pretraining.layouts.MinimumMarked",
    "pretraining.labels.Capitalised": "pretraining.objectives.CapitalisationLabels",
    "pretraining.labels.Array": "pretraining.objectives.ArrayLabels",
    "pretraining.objectives.bilm.BidirectionalLM": "pretraining.objectives.BidirectionalLM",
    "pretraining.objectives.causal.CausalLM": "pretraining.objectives.CausalLM",
    "pretraining.objectives.entities.EntityAutoencoder": "pretraining.objectives.EntityAutoencoder",
    "pretraining.objectives.labels.TokenClassification": "pretraining.objectives.TokenClassification",
    "pretraining.objectives.masked.MaskedLM": "pretraining.objectives.MaskedLM",
    "pretraining.objectives.pair.PairClassification": "pretraining.objectives.PairClassification",
    "pretraining.objectives.pair.RowClassification": "pretraining.objectives.RowClassification",
    "pretraining.objectives.permutation.PermutationLM": "pretraining.objectives.PermutationLM",
    "pretraining.curriculum.Joint": "pretraining.training.curriculum.Joint",
    "pretraining.curriculum.Sequential": "pretraining.training.curriculum.Sequential",
    "pretraining.curriculum.Continual": "pretraining.training.curriculum.Continual",
    "pretraining.curriculum.Table": "pretraining.training.curriculum.Table",
}

RENAMED = RenamedNames(_KEYS, _VALUES, _CLASS_PATHS, package="pretraining.")
"""Old names in the settings of ``python -m pretraining``, which ``run.json`` and an ablation's arms hold too."""

RENAMED_OPTIONS = RenamedNames({"visibility": "attention"})
"""Old names in the options of ``zoo show`` itself."""
