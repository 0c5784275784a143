"""Fusion: several channels' lists become one."""

from genrecall.recall.fusion.channel import FusedChannel
from genrecall.recall.fusion.contribution import Contribution, contributions
from genrecall.recall.fusion.fit import FusionFit, fit_fusion, fit_on_candidates
from genrecall.recall.fusion.recency import recency
from genrecall.recall.fusion.rule import Explained, Fusion, FusionConfig

__all__ = [
    "Contribution",
    "Explained",
    "FusedChannel",
    "Fusion",
    "FusionConfig",
    "FusionFit",
    "contributions",
    "fit_fusion",
    "fit_on_candidates",
    "recency",
]
