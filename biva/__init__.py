"""BIVA, reproduced: the paper's models, their training, evaluation, tables and figures."""

__version__ = "0.1.0"
