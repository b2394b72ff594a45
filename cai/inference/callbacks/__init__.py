"""What watches an inference: progress bars, checkpoints, logs, evaluations, reasons to stop, and what a user writes."""

from cai.inference.callbacks.base import AbstractCallback, StopInference
from cai.inference.callbacks.checkpoint import Checkpoint, read_checkpoint
from cai.inference.callbacks.evaluation import Evaluation
from cai.inference.callbacks.exact_comparison import ExactComparison
from cai.inference.callbacks.loggers import CSVLogger, JSONLLogger, read_jsonl
from cai.inference.callbacks.progress_bar import ProgressBar
from cai.inference.callbacks.stopping import EarlyStopping, TimeLimit
from cai.inference.callbacks.tensorboard import TensorBoardLogger

__all__ = [
    "AbstractCallback",
    "CSVLogger",
    "Checkpoint",
    "EarlyStopping",
    "Evaluation",
    "ExactComparison",
    "JSONLLogger",
    "ProgressBar",
    "StopInference",
    "TensorBoardLogger",
    "TimeLimit",
    "read_checkpoint",
    "read_jsonl",
]
