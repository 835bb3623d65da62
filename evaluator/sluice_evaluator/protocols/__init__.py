"""How a task reaches a model: the agent's predict call, OpenAI-compatible chat, or a function in this process."""

from sluice_evaluator.protocols.base import TaskRunner
from sluice_evaluator.protocols.chat import ChatRunner
from sluice_evaluator.protocols.function import FunctionRunner
from sluice_evaluator.protocols.http import ask_once, http_client
from sluice_evaluator.protocols.predict import PredictRunner

__all__ = ["ChatRunner", "FunctionRunner", "PredictRunner", "TaskRunner", "ask_once", "http_client"]
