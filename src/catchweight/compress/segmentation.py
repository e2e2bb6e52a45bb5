"""Pruning a segmentation network to a latency: HALP's schedule on a data set, then fine-tuning, then the verdict."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..budget import Budget
from ..config import override
from ..data import SegmentationData
from ..data.cache import PixelCache
from ..data.loading import Batch, EvalLoader, TrainLoader
from ..errors import CatchweightError, UsageError
from ..files import write_json
from ..nets import SegmentationNet, load_network, save_network
from ..nets.checkpoint import as_pruned
from ..run import Run
from ..targets import Target
from ..targets.measure import distinguishable, interleaved
from ..targets.predictor import LatencyPredictor
from ..tasks.segmentation import SegmentationTask, class_pixels
from ..train import Recipe, eager_predict, evaluate, train
from ..train.checkpoints import load_state, save_state
from ..train.epoch import step_seed
from ..train.optim import build_optimizer
from ..train.setup import build_fabric
from ..train.step import Objective, Step
from .channels import Groups
from .groups import find_groups
from .latency import ChannelCosts, CostModel, predicted_costs
from .schedule import HalpSettings, Interval, OutOfReachError, Pruner, Say, State, targets
from .tables import VARIANTS, blocks_target, pruning_predictor
