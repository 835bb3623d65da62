"""Models to evidence: tasks, criteria, comparison, shadow analysis, scorecard and the statistics behind them.

Nothing here knows a tensor: a model is an endpoint, or an agent that is told which weights to use. Whatever could not
be judged is said to be so; it is never counted as a success, and never as the model's failure either.
"""
